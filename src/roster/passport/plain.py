"""Python values to plain JSON values: copied, bounded, and everything that JSON cannot say is a fault."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from roster.passport.limits import MAX_NUMBER_CHARS, Limits
from roster.passport.rules import Report
from roster.passport.words import Path, describe, quote

# 10 ** 100 has 333 bits.
_MAX_BITS = int(MAX_NUMBER_CHARS * 3.33)


class _TooLargeError(Exception):
    """A limit of the whole was passed, so the walk ends."""


def plain(value: Any, report: Report, limits: Limits, path: Path = ()) -> Any:
    """Return a deep copy of `value` in plain JSON types; report what does not fit."""
    walk = _Walk(report, limits)
    try:
        return walk.copy(value, path, 1)
    except _TooLargeError:
        return None


class _Walk:
    def __init__(self, report: Report, limits: Limits) -> None:
        self._report, self._limits = report, limits
        self._nodes = self._chars = 0

    def copy(self, value: Any, path: Path, depth: int) -> Any:
        self._count(1, 0, path)
        match value:
            case None | bool():
                return value
            case str():
                return self._text(str(value), path)
            case int():
                if value.bit_length() > _MAX_BITS:
                    self._report.fault(
                        path, f"a number of more than {MAX_NUMBER_CHARS} digits: write it as text"
                    )
                return int(value)
            case float():
                if not math.isfinite(value):
                    self._report.fault(path, f"{value} is not a JSON number: use text, or leave it out")
                return float(value)
            case datetime():
                if value.tzinfo is None:
                    self._report.fault(path, "a datetime without a time zone: write RFC 3339 text")
                    return None
                return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
            case Mapping():
                self._descend(path, depth)
                return self._map(value, path, depth)
            case list() | tuple():
                self._descend(path, depth)
                return [self.copy(item, (*path, index), depth + 1) for index, item in enumerate(value)]
            case _:
                from roster.passport.views import ListView

                if isinstance(value, ListView):
                    self._descend(path, depth)
                    return [self.copy(item, (*path, index), depth + 1) for index, item in enumerate(value)]
                self._report.fault(path, f"expected a JSON value, found {describe(value)}")
                return None

    def _map(self, value: Mapping[Any, Any], path: Path, depth: int) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, item in value.items():
            if not isinstance(key, str):
                self._report.fault(path, f"a key must be text, found {describe(key)}: put it in quotes")
                continue
            self._count(1, len(key), path)
            out[self._text(str(key), path)] = self.copy(item, (*path, key), depth + 1)
        return out

    def _text(self, text: str, path: Path) -> str:
        self._count(0, len(text), path)
        try:
            text.encode()
        except UnicodeEncodeError:
            self._report.fault(
                path, f"{quote(text)} holds half of a surrogate pair, which is no character: remove it"
            )
        return text

    def _descend(self, path: Path, depth: int) -> None:
        if depth > self._limits.depth:
            self._report.fault(
                path, f"maps and lists are nested deeper than {self._limits.depth}: flatten them"
            )
            raise _TooLargeError

    def _count(self, nodes: int, chars: int, path: Path) -> None:
        self._nodes += nodes
        self._chars += chars
        if self._nodes > self._limits.nodes:
            self._report.fault(
                path, f"the document has more than {self._limits.nodes} nodes: make it smaller"
            )
            raise _TooLargeError
        if self._chars > self._limits.bytes:
            self._report.fault(
                path, f"the document is larger than {self._limits.bytes // 1024} KiB: make it smaller"
            )
            raise _TooLargeError
