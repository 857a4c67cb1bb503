"""Text from strangers is shown, and does nothing."""

from __future__ import annotations

import json
import unicodedata

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from roster._text import safe
from roster.cli.encode import to_json, to_yaml

_ANY = st.text(st.characters(codec=None, exclude_categories=()))
_JOINERS = "\u200c\u200d"


def _dangerous(text: str) -> list[str]:
    return [
        char
        for char in text
        if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")
        or (unicodedata.bidirectional(char) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI", "BN")
            and unicodedata.category(char) == "Cf" and char not in _JOINERS and char != "\u00ad")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("over\rwritten", "over\\x0dwritten"),
        ("two\nlines", "two\\x0alines"),
        ("a\tb", "a\\x09b"),
        ("abc\u202edef", "abc\\u202edef"),
        ("\u2066x\u2069", "\\u2066x\\u2069"),
        ("\x00\x7f", "\\x00\\x7f"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("\ufeff", "\\ufeff"),
        ("\U0001d173", "\\U0001d173"),
    ],
)
def test_control_characters_are_written_out(hostile: str, shown: str) -> None:
    assert safe(hostile) == shown


@pytest.mark.parametrize(
    "text", ["Пишет статьи", "日本語", "naïve ☃ 👩\u200d🚀", "می\u200cخواهم", "[red]bold[/red]", "a\\b"]
)
def test_every_language_goes_through_unharmed(text: str) -> None:
    assert safe(text) == text


@given(_ANY)
def test_nothing_dangerous_is_left(text: str) -> None:
    assert _dangerous(safe(text)) == []


@given(st.dictionaries(_ANY, _ANY | st.integers() | st.booleans() | st.none()))
def test_json_is_safe_and_says_the_same(value: dict[str, object]) -> None:
    text = to_json(value)

    assert _dangerous(text.replace("\n", "")) == []
    assert json.loads(text) == value


@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_yaml_is_safe_and_says_the_same(value: dict[str, str]) -> None:
    text = to_yaml(value)

    assert _dangerous(text.replace("\n", "")) == []
    assert yaml.safe_load(text) == value


def test_json_keeps_cyrillic_readable_and_escapes_c1_and_bidi() -> None:
    assert to_json({"a": "да \x9b \u202e"}, indent=None) == '{"a": "да \\u009b \\u202e"}'
