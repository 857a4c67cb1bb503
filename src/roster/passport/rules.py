"""What may stand in a field: small rules that check a value, say in plain words what was expected, and give
their JSON Schema.

One table of these (`fields.py`) is the source of validation, of warnings about unknown fields and of
`json_schema()`.
"""

from __future__ import annotations

import marshal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Protocol, TypeAlias

from roster.errors import Fault
from roster.passport.limits import MAX_KEY_CHARS
from roster.passport.reading import Places, locate
from roster.passport.words import Path, describe, foreign_letter, quote, show_path

JsonSchema: TypeAlias = dict[str, Any]

_MAX_REMEMBERED = 10_000


class Report:
    """Collects every fault and warning of one document.

    Args:
        places: where each path stands in the text; empty when there is none.
        lenient: judge as a reader of the store does, who only refuses what could not be used.
    """

    def __init__(self, places: Places | None = None, *, lenient: bool = False) -> None:
        self.places = places or {}
        self.lenient = lenient
        self.faults: list[Fault] = []
        self.warnings: list[Fault] = []

    def fault(self, path: Path, message: str) -> None:
        """Note that the document is wrong at `path`."""
        self.faults.append(self._at(path, message))

    def warn(self, path: Path, message: str) -> None:
        """Note what is allowed but probably not meant."""
        self.warnings.append(self._at(path, message))

    def expected(self, path: Path, expected: str, value: Any) -> None:
        """Note that something else stands at `path` than was expected."""
        hint = ""
        if expected.startswith("text") and isinstance(value, bool | int | float):
            hint = ": put it in quotes"
        foreign = foreign_letter(value) if isinstance(value, str) else ""
        self.fault(path, f"expected {expected}, found {describe(value)}{foreign}{hint}")

    def _at(self, path: Path, message: str) -> Fault:
        line, column = locate(self.places, path) or (None, None)
        return Fault(show_path(path), message, line, column)

    def sorted_faults(self) -> list[Fault]:
        """Return the faults in the order of the text."""
        return sorted(self.faults, key=_order)

    def sorted_warnings(self) -> list[Fault]:
        """Return the warnings in the order of the text."""
        return sorted(self.warnings, key=_order)


def _order(fault: Fault) -> tuple[int, int]:
    return fault.line or 0, fault.column or 0


class Rule(Protocol):
    """What may stand in one place."""

    def check(self, value: Any, path: Path, report: Report) -> None:
        """Report what is wrong with `value`, which is not null."""
        ...

    def schema(self) -> JsonSchema:
        """Return the rule as JSON Schema, as exactly as that can say it."""
        ...


@dataclass(frozen=True, slots=True)
class Anything:
    """Any JSON value."""

    def check(self, value: Any, path: Path, report: Report) -> None:
        """Accept."""

    def schema(self) -> JsonSchema:
        """Return the schema that accepts all."""
        return {}


@dataclass(frozen=True, slots=True)
class Text:
    """Text that passes a test.

    Attributes:
        expected: what to say was expected; begins with `text` when any quoted value would do.
        test: whether the text is right; None accepts all.
        json_schema: what JSON Schema can say of it.
    """

    expected: str = "text"
    test: Callable[[str], bool] | None = None
    json_schema: Mapping[str, Any] = field(default_factory=dict)

    def check(self, value: Any, path: Path, report: Report) -> None:
        """Report what is not such text."""
        if not isinstance(value, str) or (self.test is not None and not self.test(value)):
            report.expected(path, self.expected, value)

    def schema(self) -> JsonSchema:
        """Return the rule as JSON Schema."""
        return {"type": "string", **self.json_schema}


@dataclass(frozen=True, slots=True)
class Number:
    """A number within bounds.

    Attributes:
        low: the least that is allowed, or the bound above which it must lie with `above`.
        high: the most that is allowed.
        whole: integers only.
        above: `low` itself is not allowed.
    """

    low: float
    high: float
    whole: bool = True
    above: bool = False

    def check(self, value: Any, path: Path, report: Report) -> None:
        """Report what is not such a number."""
        kind = type(value)
        right = kind is int or (kind is float and not self.whole)
        if not right or not (self.low < value if self.above else self.low <= value) or value > self.high:
            what = "a whole number" if self.whole else "a number"
            bounds = (
                f"above {self.low} and at most {self.high}"
                if self.above
                else f"from {self.low} to {self.high}"
            )
            report.expected(path, f"{what} {bounds}", value)

    def schema(self) -> JsonSchema:
        """Return the rule as JSON Schema."""
        low = "exclusiveMinimum" if self.above else "minimum"
        return {"type": "integer" if self.whole else "number", low: self.low, "maximum": self.high}


@dataclass(frozen=True, slots=True)
class Boolean:
    """True or false."""

    def check(self, value: Any, path: Path, report: Report) -> None:
        """Report what is not a boolean."""
        if not isinstance(value, bool):
            report.expected(path, "true or false", value)

    def schema(self) -> JsonSchema:
        """Return the rule as JSON Schema."""
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list, each item by one rule.

    Attributes:
        item: the rule of the items.
        most: how many there may be.
        unique: the key by which items may not repeat, or None.
    """

    item: Rule
    most: int
    unique: str | None = None

    def check(self, value: Any, path: Path, report: Report) -> None:
        """Report what is no list, too long, wrong in an item or there twice."""
        if not isinstance(value, list):
            report.expected(path, "a list", value)
            return
        if len(value) > self.most:
            report.fault(path, f"expected at most {self.most} items, found {len(value)}")
            return
        seen: dict[str, int] = {}
        for index, item in enumerate(value):
            here = (*path, index)
            if item is None:
                report.expected(here, "an item", item)
                continue
            self.item.check(item, here, report)
            if self.unique and isinstance(item, dict) and isinstance(name := item.get(self.unique), str):
                if name in seen:
                    first = f"first as item {seen[name]}"
                    message = f"{quote(name)} stands in this list twice, {first}: rename or remove one"
                    report.fault((*here, self.unique), message)
                seen.setdefault(name, index)

    def schema(self) -> JsonSchema:
        """Return the rule as JSON Schema."""
        return {"type": "array", "maxItems": self.most, "items": self.item.schema()}


@dataclass(frozen=True, slots=True)
class MapOf:
    """A map with free keys.

    Attributes:
        key: the rule of its keys.
        value: the rule of its values.
    """

    key: Text
    value: Rule

    def check(self, value: Any, path: Path, report: Report) -> None:
        """Report what is no map, or wrong in a key or a value."""
        if not isinstance(value, dict):
            report.expected(path, "a map", value)
            return
        for key, item in value.items():
            here = (*path, key)
            if self.key.test is not None and not self.key.test(key):
                message = f"expected as key {self.key.expected}, found {quote(key)}{foreign_letter(key)}"
                report.fault(here, message)
            if item is None:
                report.expected(here, "text", item)
            else:
                self.value.check(item, here, report)

    def schema(self) -> JsonSchema:
        """Return the rule as JSON Schema."""
        names = {k: v for k, v in self.key.schema().items() if k != "type"}
        out: JsonSchema = {"type": "object", "additionalProperties": self.value.schema()}
        return {**out, "propertyNames": names} if names else out


class Remembered:
    """A rule for what stands alike in many documents: what has passed once passes again for the price of a hash.

    Args:
        rule: what it stands for. It must judge by the value alone.
    """

    __slots__ = ("_passed", "rule")

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._passed: set[bytes] = set()

    def check(self, value: Any, path: Path, report: Report) -> None:
        """Report what the rule reports."""
        mark = fingerprint(value)
        if mark in self._passed:
            return
        before = len(report.faults)
        self.rule.check(value, path, report)
        if mark and len(report.faults) == before:
            if len(self._passed) >= _MAX_REMEMBERED:
                self._passed.clear()
            self._passed.add(mark)

    def schema(self) -> JsonSchema:
        """Return the rule as JSON Schema."""
        return self.rule.schema()


def fingerprint(value: Any) -> bytes:
    """Return 16 bytes that only equal values written alike share; empty for what is no JSON."""
    try:
        # Version 2 knows no references to objects seen before: what it writes depends on the value alone.
        return blake2b(marshal.dumps(value, 2), digest_size=16).digest()
    except ValueError:
        return b""


@dataclass(frozen=True, slots=True)
class Field:
    """One named field of an object.

    Attributes:
        rule: what may stand in it.
        doc: what it is, for readers and editors.
        required: it must be there; an optional field may be left out or null.
        default: what its absence means, for the schema; None when that is nothing.
        examples: for editors.
        lenient: the rule for documents from the store, when it is a looser one.
    """

    rule: Rule
    doc: str
    required: bool = False
    default: Any = None
    examples: tuple[Any, ...] = ()
    lenient: Rule | None = None


@dataclass(frozen=True, slots=True)
class Object:
    """A map with known fields. Unknown ones are kept, and warned of unless `extra` welcomes them."""

    fields: Mapping[str, Field]
    extra: bool = False
    _required: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _lenient: Mapping[str, Rule] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        needed = tuple(name for name, known in self.fields.items() if known.required)
        object.__setattr__(self, "_required", needed)
        loose = {name: known.lenient or known.rule for name, known in self.fields.items()}
        judging = {name: rule for name, rule in loose.items() if not isinstance(rule, Anything)}
        object.__setattr__(self, "_lenient", judging)

    def check(self, value: Any, path: Path, report: Report) -> None:
        """Report what is no map, missing or wrong in a field, and warn of unknown fields."""
        if not isinstance(value, dict):
            report.expected(path, "a map", value)
            return
        for name in self._required:
            if value.get(name) is None:
                rule = self.fields[name].rule
                expected = rule.expected if isinstance(rule, Text) else "a value"
                report.fault((*path, name), f"required, and missing: expected {expected}")
        # Ten thousand documents are read when a process starts: what is known is looked up, not gone through.
        rules = self._lenient if report.lenient else None
        for name, item in value.items():
            if rules is not None:
                rule_of = rules.get(name)
            else:
                known = self.fields.get(name)
                rule_of = known.rule if known is not None else None
                if known is None and not self.extra:
                    report.warn((*path, name), f"unknown field{self._guess(name)}; it is kept")
            if rule_of is not None and item is not None:
                rule_of.check(item, (*path, name), report)

    def _guess(self, key: str) -> str:
        import difflib

        near = difflib.get_close_matches(key[:100], self.fields, n=1)
        return f", did you mean {quote(near[0])}?" if near else ""

    def schema(self) -> JsonSchema:
        """Return the rule as JSON Schema."""
        out: JsonSchema = {"type": "object"}
        if needed := [name for name, known in self.fields.items() if known.required]:
            out["required"] = needed
        out["properties"] = {name: _field_schema(known) for name, known in self.fields.items()}
        return out


def _field_schema(known: Field) -> JsonSchema:
    inner = known.rule.schema()
    if not known.required and isinstance(kind := inner.get("type"), str):
        inner = {**inner, "type": [kind, "null"]}
        if "enum" in inner:
            inner["enum"] = [*inner["enum"], None]
    out = {"description": known.doc, **inner}
    if known.default is not None:
        out["default"] = known.default
    if known.examples:
        out["examples"] = list(known.examples)
    return out


def check_tree(value: Any, report: Report, path: Path = ()) -> None:
    """Report keys that could not be written again as YAML: too long, or with control characters."""
    if isinstance(value, dict):
        for key, item in value.items():
            if len(key) > MAX_KEY_CHARS:
                report.fault((*path, key), f"a key of {len(key)} characters: at most {MAX_KEY_CHARS}")
            elif not key.isprintable() and any(ord(char) < 0x20 or 0x7F <= ord(char) <= 0x9F for char in key):
                report.fault((*path, key), "a control character in a key: remove it")
            check_tree(item, report, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            check_tree(item, report, (*path, index))
