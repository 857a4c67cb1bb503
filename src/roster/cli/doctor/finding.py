"""What an examination comes to: how bad it is, what it is, and what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "OK"
    WARN = "WARN"
    """Worth a look: nothing fails because of it at this moment."""
    FAIL = "FAIL"
    """Calls fail, nodes cannot be found, or nobody can register, because of it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line what, one line what to do.

    Attributes:
        level: how bad it is.
        area: `machine`, `environment`, `store`, `nodes`, `bus` or `runs`.
        what: one sentence.
        remedy: what to do, empty where there is nothing to do.
    """

    level: Level
    area: str
    what: str
    remedy: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return it for programs."""
        return {name: str(value) for name, value in asdict(self).items()}


def ok(area: str, what: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(Level.OK, area, what)


def warn(area: str, what: str, remedy: str) -> Finding:
    """Return a finding that is worth a look."""
    return Finding(Level.WARN, area, what, remedy)


def fail(area: str, what: str, remedy: str) -> Finding:
    """Return a finding that must be put right."""
    return Finding(Level.FAIL, area, what, remedy)


def few(names: list[str], most: int = 5) -> str:
    """Return names as a list that stays readable."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
