"""How much a card may hold and take: every limit with its default, and how it is set."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace

from roster._durations import parse_duration
from roster.errors import ConfigError
from roster.passport.limits import FILE
from roster.passport.limits import Limits as TextLimits
from roster.passport.words import quote

VARIABLE = "ROSTER_CARD_LIMITS"
_DURATIONS = frozenset(("total_time", "step_timeout", "wait_timeout"))
_BYTES = frozenset(("file", "variable"))
_SIZE = re.compile(r"([0-9]{1,15})(|KiB|MiB|GiB)")
_UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_MAX_SECONDS = 10 * 365 * 86400.0
_MAX_COUNT = 2**40
# Reading a document and drawing it go as deep as it does, and Python's own stack ends at about 1000.
_MAX_NESTING = 32


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one card.

    Attributes:
        steps: steps of a card, those in branches and loops counted.
        nesting: branches, loops and cards inside each other.
        attempts: the most that `retry.max_attempts` may say.
        visits: how often one step may be entered in a run where it does not say `max_visits`.
        max_visits: the most that `max_visits` may say.
        concurrency: the most that `max_concurrency` may say.
        items: items of one `foreach`, and branches of one `parallel`.
        variable: bytes of one variable as JSON, and of one text or map that expressions are put into.
        total_time: seconds that a run may take where the card does not say; the most that it may say.
        step_timeout: seconds of an `action` that does not say.
        wait_timeout: seconds of a `wait` for an event or a `human_checkpoint` that does not say.
        file: bytes of the card's text.
        nodes: maps, lists, keys and scalars of the card, YAML's aliases written out.

    Source: the numbers of steps, nesting, attempts, variable and step_timeout are those of the founding project's
    specification of process cards (2.6, 2.7).
    """

    steps: int = 100
    nesting: int = 10
    attempts: int = 10
    visits: int = 100
    max_visits: int = 10_000
    concurrency: int = 100
    items: int = 10_000
    variable: int = 10 * 2**20
    total_time: float = 7 * 86400.0
    step_timeout: float = 300.0
    wait_timeout: float = 86400.0
    file: int = FILE.bytes
    nodes: int = FILE.nodes

    @property
    def text(self) -> TextLimits:
        """The bounds that the reader of the text keeps."""
        # Each level of steps is at most three of YAML's: the list of branches, the branch, its step.
        return TextLimits(bytes=self.file, depth=FILE.depth + 3 * self.nesting, nodes=self.nodes, documents=1)

    def changed(self, text: str) -> Limits:
        """Return limits with some of them set: `steps=200,total_time=2h,variable=1MiB`.

        Raises:
            ConfigError: an unknown name, or a value that is none.
        """
        changes: dict[str, int | float] = {}
        known = [each.name for each in fields(self)]
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = part.partition("=")
            if name not in known:
                raise ConfigError(f"no limit {quote(name)} for cards: there are {', '.join(known)}")
            changes[name] = _value(name, value.strip())
        return replace(self, **changes)  # type: ignore[arg-type]  # _value gives each its type


def _value(name: str, text: str) -> int | float:
    if name in _DURATIONS:
        try:
            seconds = parse_duration(text)
        except ValueError as error:
            raise ConfigError(f"the limit {name}: {error}, found {quote(text)}") from None
        if 0 < seconds <= _MAX_SECONDS:
            return seconds
        raise ConfigError(f"the limit {name}: expected more than 0 and at most 10 years, found {quote(text)}")
    found = _SIZE.fullmatch(text)
    if found is None or (found[2] and name not in _BYTES):
        what = "bytes such as 65536, 512KiB or 10MiB" if name in _BYTES else "a whole number"
        raise ConfigError(f"the limit {name}: expected {what}, found {quote(text)}")
    number = int(found[1]) * _UNITS[found[2]]
    most = _MAX_NESTING if name == "nesting" else _MAX_COUNT
    if not 1 <= number <= most:
        raise ConfigError(f"the limit {name}: expected from 1 to {most}, found {quote(text)}")
    return number


DEFAULTS = Limits()
