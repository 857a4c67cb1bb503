"""Version ranges mean what they mean in npm, in the order of semver."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.passport.samples import refusal

from roster.errors import SelectorError
from roster.passport import VersionRange


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        (">=1.2,<2", ["1.2.0", "1.99.9"], ["1.1.9", "2.0.0", "2.0.0-alpha", "1.3.0-beta"]),
        (">=1.2 <2", ["1.2.0"], ["2.0.0"]),
        (">= 1.2 , < 2", ["1.2.0"], ["2.0.0"]),
        ("^1.2", ["1.2.0", "1.9.0"], ["1.1.0", "2.0.0", "2.0.0-0"]),
        ("^1.2.3", ["1.2.3", "1.3.0"], ["1.2.2", "2.0.0"]),
        ("^0.2.3", ["0.2.3", "0.2.9"], ["0.3.0", "0.2.2"]),
        ("^0.0.3", ["0.0.3"], ["0.0.4", "0.1.0"]),
        ("^0.0", ["0.0.0", "0.0.9"], ["0.1.0"]),
        ("^0", ["0.0.1", "0.9.0"], ["1.0.0"]),
        ("~1.2", ["1.2.0", "1.2.9"], ["1.3.0"]),
        ("~1.2.3", ["1.2.3", "1.2.9"], ["1.2.2", "1.3.0"]),
        ("~1", ["1.0.0", "1.9.0"], ["2.0.0"]),
        ("1.x", ["1.0.0", "1.9.9"], ["2.0.0", "0.9.0"]),
        ("1.2.*", ["1.2.0"], ["1.3.0"]),
        ("1", ["1.0.0", "1.5.0"], ["2.0.0"]),
        ("1.2.3", ["1.2.3", "1.2.3+build"], ["1.2.4", "1.2.3-rc.1"]),
        ("=1.2.3", ["1.2.3"], ["1.2.4"]),
        ("==1.2.3", ["1.2.3"], ["1.2.4"]),
        ("v1.2.3", ["1.2.3"], ["1.2.4"]),
        (">1.2", ["1.3.0"], ["1.2.9", "1.3.0-a"]),
        (">1", ["2.0.0"], ["1.9.9"]),
        (">1.2.3", ["1.2.4"], ["1.2.3"]),
        ("<=1.2", ["1.2.9", "0.1.0"], ["1.3.0"]),
        ("<=1.2.3", ["1.2.3"], ["1.2.4"]),
        ("<1.2.3-rc.2", ["1.2.3-rc.1", "1.2.2"], ["1.2.3-rc.2", "1.2.3", "1.2.2-rc.1"]),
        (">=1.3.0-beta", ["1.3.0-beta", "1.3.0-rc.1", "1.3.0", "2.0.0"], ["1.3.0-alpha", "1.4.0-beta"]),
        ("1.2.3-rc.1", ["1.2.3-rc.1"], ["1.2.3"]),
        ("^1, !=1.4.0", ["1.3.0", "1.4.1"], ["1.4.0", "2.0.0"]),
        ("^1 || ^3", ["1.2.0", "3.0.1"], ["2.0.0", "4.0.0"]),
        ("^1 || *", ["1.2.0", "9.0.0"], []),
        ("", ["1.0.0", "1.0.0-rc"], []),
        ("*", ["1.0.0", "1.0.0-rc"], []),
        ("x", ["0.0.0"], []),
    ],
)
def test_a_range_holds_what_npm_says_it_holds(text: str, inside: list[str], outside: list[str]) -> None:
    found = VersionRange.parse(text)
    assert [each for each in inside if not found.matches(each)] == []
    assert [each for each in outside if found.matches(each)] == []


def test_a_node_without_a_version_lies_only_in_the_range_that_takes_all() -> None:
    assert VersionRange.parse(None).matches(None)
    assert VersionRange.parse("*").matches(None)
    assert VersionRange.parse("*").any
    assert not VersionRange.parse(">=0").matches(None)
    assert not VersionRange.parse(">=0").matches("1.0")
    assert not VersionRange.parse(">=0").matches("nonsense")


def test_equality_is_by_canonical_text() -> None:
    assert str(VersionRange.parse("^1.2")) == ">=1.2.0,<2.0.0-0"
    assert VersionRange.parse("1.x") == VersionRange.parse("^1") == VersionRange.parse(">=1.0.0 <2")
    assert hash(VersionRange.parse("1.x")) == hash(VersionRange.parse("~1"))
    assert VersionRange.parse("^1||^2") == VersionRange.parse("^2 || ^1")
    assert VersionRange.parse(VersionRange.parse("^1")) == VersionRange.parse("^1")
    assert VersionRange.parse("^1") != VersionRange.parse("^2")


@pytest.mark.parametrize(
    "text",
    [
        "latest",
        "1.2.3.4",
        ">>1",
        "1.2 - 2",
        "^",
        ">=",
        "1..2",
        "01.2",
        "1.2.3-",
        "1.2.3-01",
        ">*",
        "!=1.2",
        "1,,2",
        "é",
        "1" * 300,
        "9" * 40,
    ],
)
def test_what_is_no_range_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(SelectorError, match=r"such as|at most|no version|names? no|name one|!=1\.4\.0"):
        VersionRange.parse(text)


parts = st.integers(0, 3)
versions = st.builds(
    lambda a, b, c, tag: f"{a}.{b}.{c}{tag}",
    parts,
    parts,
    parts,
    st.sampled_from(["", "-a", "-a.1", "-b", "-0", "+x"]),
)
ranges = st.lists(
    st.builds(lambda op, v: op + v, st.sampled_from(["", "=", ">", ">=", "<", "<=", "^", "~"]), versions),
    min_size=1,
    max_size=3,
).map(",".join)


@given(ranges, versions)
@settings(max_examples=300)
def test_the_canonical_text_reads_as_the_same_range(text: str, version: str) -> None:
    found = VersionRange.parse(text)
    again = VersionRange.parse(str(found))
    assert again == found
    assert str(again) == str(found)
    assert again.matches(version) == found.matches(version)


@given(st.text(max_size=20) | st.text(st.sampled_from("0123456789.xX*<>=^~!|, v-a+"), max_size=15))
@settings(max_examples=300)
def test_any_text_is_read_or_refused(text: str) -> None:
    error = refusal(lambda: VersionRange.parse(text).matches("1.2.3"))
    assert error is None or (isinstance(error, SelectorError) and str(error).isprintable())
