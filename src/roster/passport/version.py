"""Version ranges: `>=1.2,<2`, `^1.2`, `~1.2`, `1.x`, `!=1.4.0`, alternatives with `||`; npm's meaning,
semver's order.

A prerelease matches only where the range itself names a prerelease of the same major.minor.patch: `>=1.2.0`
does not take `1.3.0-beta.1`, `>=1.3.0-beta` does. A range that is empty or `*` takes every version and nodes
that state none.

Source: https://semver.org (order), https://github.com/npm/node-semver (ranges and the prerelease rule).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple

from semver import Version

from roster.errors import SelectorError
from roster.passport.fields import is_semver
from roster.passport.words import describe, quote

MAX_CHARS = 256

_PART = r"0|[1-9][0-9]{0,15}|[xX*]"
_COMPARATOR = re.compile(
    rf"(\^|~|>=|<=|>|<|==|!=|=)?v?({_PART})"
    rf"(?:\.({_PART})(?:\.({_PART})(-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?)?)?"
)
_SPLIT = re.compile(r"[ ]*,[ ]*|[ ]+")
_EXAMPLES = 'such as ">=1.2,<2", "^1.2", "~1.2", "1.x" or "1.2.3"'


class _Comparator(NamedTuple):
    operator: str
    version: Version

    def __str__(self) -> str:
        return f"{self.operator}{self.version}"

    def holds(self, version: Version) -> bool:
        order = version.compare(self.version)
        match self.operator:
            case ">=":
                return order >= 0
            case ">":
                return order > 0
            case "<":
                return order < 0
            case "<=":
                return order <= 0
            case "!=":
                return order != 0
            case _:
                return order == 0


class VersionRange:
    """A set of versions. Immutable; equal when the canonical text is.

    Example:
        >>> str(VersionRange.parse("^1.2")), VersionRange.parse("^1.2").matches("1.9.0")
        ('>=1.2.0,<2.0.0-0', True)
    """

    __slots__ = ("_sets", "_text")

    _sets: tuple[tuple[_Comparator, ...], ...]
    _text: str

    def __init__(self, sets: tuple[tuple[_Comparator, ...], ...] = ()) -> None:
        # An alternative without comparators takes all, and so does the whole.
        kept = () if any(not each for each in sets) else sets
        texts = sorted({",".join(str(each) for each in comparators) for comparators in kept})
        object.__setattr__(self, "_sets", kept)
        object.__setattr__(self, "_text", "||".join(texts))

    @classmethod
    def parse(cls, text: str | VersionRange | None) -> VersionRange:
        """Read a range.

        Args:
            text: comparators joined by commas or spaces (all must hold), alternatives by `||`; None takes
                everything.

        Raises:
            SelectorError: says which part cannot be read.
        """
        if text is None:
            return _ANY
        if isinstance(text, VersionRange):
            return text
        if not isinstance(text, str):
            raise SelectorError(f"a version range is text {_EXAMPLES}, not {describe(text)}")
        return _parse(text)

    @property
    def any(self) -> bool:
        """Whether it takes everything, even nodes without a version."""
        return not self._sets

    def matches(self, version: str | None) -> bool:
        """Tell whether a version lies in the range; what is no semver lies only in the one that takes all."""
        if not self._sets:
            return True
        if version is None or not is_semver(version):
            return False
        parsed = _version(version)
        return any(_within(comparators, parsed) for comparators in self._sets)

    def __setattr__(self, name: str, _value: Any) -> None:
        raise AttributeError(f"a version range cannot be changed ({name})")

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"VersionRange({self._text!r})"

    def __eq__(self, other: object) -> bool:
        return self._text == other._text if isinstance(other, VersionRange) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> tuple[Any, ...]:
        return VersionRange.parse, (self._text,)


_ANY = VersionRange()


@lru_cache(maxsize=1024)
def _version(text: str) -> Version:
    return Version.parse(text)


def _within(comparators: tuple[_Comparator, ...], version: Version) -> bool:
    if not all(each.holds(version) for each in comparators):
        return False
    if version.prerelease is None:
        return True
    triple = version.to_tuple()[:3]
    return any(
        each.version.prerelease is not None
        and each.operator != "!="
        and each.version.to_tuple()[:3] == triple
        for each in comparators
    )


@lru_cache(maxsize=1024)
def _parse(text: str) -> VersionRange:
    if len(text) > MAX_CHARS:
        raise SelectorError(f"a version range of {len(text)} characters: at most {MAX_CHARS}")
    if not text.strip():
        return _ANY
    return VersionRange(tuple(_alternative(part.strip(), text) for part in text.split("||")))


def _alternative(part: str, whole: str) -> tuple[_Comparator, ...]:
    # `>= 1.2` is one comparator: join an operator with what follows it before splitting on spaces.
    joined = re.sub(r"(\^|~|>=|<=|>|<|==|!=|=)[ ]+", r"\1", part)
    out: list[_Comparator] = []
    for piece in _SPLIT.split(joined):
        found = _COMPARATOR.fullmatch(piece)
        if found is None:
            where = f"{quote(piece)} in the version range {quote(whole, 120)}"
            raise SelectorError(f"{where} cannot be read: write one {_EXAMPLES}")
        try:
            out += _desugar(*found.groups())
        except ValueError:
            raise SelectorError(
                f"{quote(piece)} in the version range {quote(whole, 120)} is no version by semver.org"
            ) from None
    return tuple(dict.fromkeys(out))


def _desugar(
    operator: str | None, first: str, second: str | None, third: str | None, prerelease: str | None
) -> list[_Comparator]:
    """Return one comparator of the text as plain ones, as npm's documentation tables them."""
    operator = {None: "=", "==": "="}.get(operator, operator or "=")
    known: list[int] = []
    for part in (first, second, third):
        if part is None or part in "xX*":
            break
        known.append(int(part))
    major, minor, patch = (*known, 0, 0, 0)[:3]
    tag = prerelease[1:] if prerelease and len(known) == 3 else None
    low = Version(major, minor, patch, tag)
    if not is_semver(str(low)):
        raise ValueError(str(low))
    if not known:
        if operator in (">", "<", "!="):
            raise SelectorError(f"{quote(operator + first)} takes no version at all: name one")
        return []
    # The first version above everything that the given parts describe; `-0` is the lowest prerelease there
    # is.
    above = {
        1: Version(major + 1, 0, 0, "0"),
        2: Version(major, minor + 1, 0, "0"),
        3: Version(major, minor, patch + 1, "0"),
    }[len(known)]
    match operator:
        case "^":
            if major or len(known) == 1:
                above = Version(major + 1, 0, 0, "0")
            elif minor or len(known) == 2:
                above = Version(0, minor + 1, 0, "0")
            return [_Comparator(">=", low), _Comparator("<", above)]
        case "~":
            if len(known) > 1:
                above = Version(major, minor + 1, 0, "0")
            return [_Comparator(">=", low), _Comparator("<", above)]
        case ">=":
            return [_Comparator(">=", low)]
        case "<":
            return [_Comparator("<", low if len(known) == 3 else Version(major, minor, patch, "0"))]
        case "!=":
            if len(known) < 3:
                raise SelectorError(f"!= needs a whole version such as !=1.4.0, found {quote(first)}")
            return [_Comparator("!=", low)]
        case _ if len(known) == 3:
            return [_Comparator(operator, low)]
        case ">":
            return [_Comparator(">=", above.replace(prerelease=None))]
        case "<=":
            return [_Comparator("<", above)]
        case _:
            return [_Comparator(">=", low), _Comparator("<", above)]
