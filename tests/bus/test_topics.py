"""Topic patterns mean what they mean in AMQP."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roster.bus.topics import MAX_NAME_BYTES, check_key, check_patterns, check_queue, matches, matches_any
from roster.errors import MessageError


@pytest.mark.parametrize(
    ("pattern", "key", "expected"),
    [
        ("cmd.writer.#", "cmd.writer", True),
        ("cmd.writer.#", "cmd.writer.now.please", True),
        ("cmd.writer.#", "cmd.writers", False),
        ("cmd.*.now", "cmd.writer.now", True),
        ("cmd.*.now", "cmd.now", False),
        ("*", "a", True),
        ("*", "a.b", False),
        ("*", "", False),
        ("#", "", True),
        ("#", "a.b.c", True),
        ("", "", True),
        ("", "a", False),
        ("#.b", "a.b", True),
        ("#.b", "b", True),
        ("#.b.#", "a.b.c.b", True),
        ("#.*", "", False),
        ("*.#.*", "a.b", True),
        ("*.#.*", "a", False),
        ("a..b", "a..b", True),
        ("a.*.b", "a..b", True),
        ("a#", "a", False),
        ("a#", "a#", True),
        ("имя.*", "имя.ё", True),
    ],
)
def test_patterns_match_as_in_amqp(pattern: str, key: str, expected: bool) -> None:
    assert matches(pattern, key) is expected


def by_the_book(pattern: tuple[str, ...], key: tuple[str, ...]) -> bool:
    """The definition, word by word; exponential without the cache, which is why it is not what runs."""

    @cache
    def match(i: int, j: int) -> bool:
        if i == len(pattern):
            return j == len(key)
        if pattern[i] == "#":
            return match(i + 1, j) or (j < len(key) and match(i, j + 1))
        return j < len(key) and pattern[i] in ("*", key[j]) and match(i + 1, j + 1)

    return match(0, 0)


words = st.sampled_from(["a", "b", "ab"])


@given(
    st.lists(st.one_of(words, st.sampled_from(["*", "#"])), min_size=1, max_size=8),
    st.lists(words, min_size=1, max_size=8),
)
def test_matching_follows_the_definition(pattern: list[str], key: list[str]) -> None:
    assert matches(".".join(pattern), ".".join(key)) is by_the_book(tuple(pattern), tuple(key))


@given(st.text(max_size=40))
def test_a_hash_matches_everything_and_a_plain_key_itself(key: str) -> None:
    assert matches("#", key)
    if not {"*", "#"} & set(key.split(".")):
        assert matches(key, key)


def test_a_hostile_pattern_takes_no_time() -> None:
    key = ".".join("a" * 120)
    assert not matches_any([".".join(["#", "a"] * 60 + ["b"])], key)


@pytest.mark.parametrize("check", [check_queue, check_key])
def test_names_are_bounded_in_bytes(check: object) -> None:
    assert callable(check)
    assert check("я" * (MAX_NAME_BYTES // 2)) == "я" * (MAX_NAME_BYTES // 2)
    with pytest.raises(MessageError, match="255 bytes"):
        check("я" * (MAX_NAME_BYTES // 2 + 1))
    with pytest.raises(MessageError, match="UTF-8"):
        check("\udfff")
    with pytest.raises(MessageError):
        check(7)


def test_one_text_in_place_of_a_list_of_patterns_is_refused() -> None:
    with pytest.raises(MessageError, match="list"):
        check_patterns("evt.#")
