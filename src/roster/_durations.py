"""Durations as people write and read them: `30s`, `1h30m`, `2d`."""

from __future__ import annotations

import math
import re

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_FORM = re.compile(rf"(?:{_PART.pattern})+")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def parse_duration(text: str) -> float:
    """Return seconds: a plain number is seconds, else `30s`, `500ms`, `5m`, `1h30m`, `2d`.

    Raises:
        ValueError: it is none of these.
    """
    text = text.strip()
    if len(text) <= 40:
        if _NUMBER.fullmatch(text):
            return float(text)
        if _FORM.fullmatch(text):
            return math.fsum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    raise ValueError("expected a duration such as 30s, 5m, 1h30m, or a number of seconds")


def show_duration(seconds: float | None) -> str:
    """Return at most two units, as kubectl shows an age: `45s`, `3m10s`, `5h`, `12d`."""
    if seconds is None:
        return "<unknown>"
    whole = max(0, int(seconds))
    if whole < 120:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 10:
        return f"{minutes}m{rest}s" if rest else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    if hours < 8:
        return f"{hours}h{minutes}m" if minutes else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    return f"{hours // 24}d"
