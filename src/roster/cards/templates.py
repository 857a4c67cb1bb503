"""Values with expressions in them: `params`, `result` and other fields, read once and filled in at each visit.

A text that is one `${...}` and nothing else keeps the type of its value. Inside a longer text a value that is text stands
as it is, and any other as JSON. `$${` is the text `${`. Keys of maps are never looked at.

A filled-in value is bounded while it is made: a thousand times the same ten megabytes is refused, not built.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from roster.cards.expressions import Expression
from roster.cards.syntax import Reference, SyntaxFault
from roster.errors import ExpressionError
from roster.passport.rules import Report
from roster.passport.words import Path, describe, show_path


@dataclass(frozen=True, slots=True)
class _Constant:
    value: Any


@dataclass(frozen=True, slots=True)
class _Whole:
    expression: Expression


@dataclass(frozen=True, slots=True)
class _Text:
    parts: tuple[str | Expression, ...]


@dataclass(frozen=True, slots=True)
class _Map:
    items: tuple[tuple[str, _Part], ...]


@dataclass(frozen=True, slots=True)
class _List:
    items: tuple[_Part, ...]


_Part: TypeAlias = _Constant | _Whole | _Text | _Map | _List


class TooLargeError(Exception):
    """A value is over the limit of bytes."""


def measure(value: Any, limit: int) -> int:
    """Return about how many bytes a plain JSON value takes as JSON (escapes not counted).

    Raises:
        TooLargeError: more than `limit`; the rest is not looked at.
    """
    left = limit
    stack = [value]
    while stack:
        part = stack.pop()
        match part:
            case str():
                left -= 2 + (len(part) if part.isascii() else len(part.encode("utf-8", "surrogatepass")))
            case dict():
                left -= 2 + 2 * len(part)
                if left >= 0:
                    stack.extend(part.keys())
                    stack.extend(part.values())
            case list():
                left -= 2 + len(part)
                if left >= 0:
                    stack.extend(part)
            case int() if not isinstance(part, bool):
                left -= part.bit_length() // 3 + 1
            case float():
                left -= 24
            case _:
                left -= 5
        if left < 0:
            raise TooLargeError
    return limit - left


class Template:
    """One value of a card with expressions in it. Immutable; made by `read_template`.

    Attributes:
        source: the value as the card has it.
        reads: every reference in it with the path inside the value where it stands.
    """

    __slots__ = ("_part", "reads", "source")

    source: Any
    reads: tuple[tuple[Path, Reference], ...]

    def __init__(self, source: Any, part: _Part) -> None:
        self.source = source
        self._part = part
        self.reads = tuple(_reads(part, ()))

    @property
    def constant(self) -> bool:
        """Whether no expression is in it."""
        return isinstance(self._part, _Constant)

    @property
    def whole(self) -> bool:
        """Whether it is one expression and nothing else, so that it keeps its type."""
        return isinstance(self._part, _Whole)

    @property
    def value(self) -> Any:
        """What it is without filling in: only where it is `constant`."""
        if not isinstance(self._part, _Constant):
            raise ValueError("a template with expressions has no value before it is filled in")
        return self._part.value

    def holes(self) -> Iterator[Path]:
        """Yield the path of each text with an expression in it."""
        yield from _holes(self._part, ())

    def with_holes(self, hole: Any) -> Any:
        """Return the value with `hole` in place of every text that has an expression."""
        return _hollow(self._part, hole)

    def fill(self, scope: Mapping[str, Any], *, step: str, field: str, limit: int = 10 * 2**20) -> Any:
        """Return the value with every expression replaced by what it comes to.

        Parts that are variables are shared with them: do not change the result.

        Args:
            scope: the variables, plain JSON values.
            step: the step's id, for errors.
            field: the field it stands in, for errors.
            limit: bytes of the result as JSON.

        Raises:
            ExpressionError: names step and field.
        """
        return _Filling(scope, step, (field,), limit).make(self._part, ())

    def __eq__(self, other: object) -> bool:
        return self.source == other.source if isinstance(other, Template) else NotImplemented

    def __hash__(self) -> int:
        return hash(repr(self.source))

    def __repr__(self) -> str:
        return f"Template({describe(self.source)})"


def read_template(value: Any, path: Path, report: Report) -> Template:
    """Return a value of a card as a template; report every text in it that cannot be read as one."""
    return Template(value, _part(value, path, report))


def _part(value: Any, path: Path, report: Report) -> _Part:
    match value:
        case str() if "${" in value:
            try:
                parts = _cut(value)
            except SyntaxFault as fault:
                report.fault(path, f"{fault}; write $${{ where the text ${{ is meant")
                return _Constant(value)
            if len(parts) == 1:
                return _Whole(parts[0]) if isinstance(parts[0], Expression) else _Constant(parts[0])
            return _Text(tuple(parts))
        case dict():
            items = {key: _part(item, (*path, key), report) for key, item in value.items()}
            if all(isinstance(item, _Constant) for item in items.values()):
                return _Constant(
                    {key: item.value for key, item in items.items() if isinstance(item, _Constant)}
                )
            return _Map(tuple(items.items()))
        case list():
            each = [_part(item, (*path, index), report) for index, item in enumerate(value)]
            if all(isinstance(item, _Constant) for item in each):
                return _Constant([item.value for item in each if isinstance(item, _Constant)])
            return _List(tuple(each))
        case _:
            return _Constant(value)


def _cut(text: str) -> list[str | Expression]:
    """Cut a text into what stands as it is and expressions; what stands is in one piece between two of these."""
    out: list[str | Expression] = []
    plain: list[str] = []
    at = 0
    while (found := text.find("${", at)) >= 0:
        if found > at and text[found - 1] == "$":
            plain += (text[at : found - 1], "${")
            at = found + 2
            continue
        plain.append(text[at:found])
        expression, at = Expression.embedded(text, found + 2)
        if any(plain):
            out.append("".join(plain))
        plain.clear()
        out.append(expression)
    plain.append(text[at:])
    if any(plain) or not out:
        out.append("".join(plain))
    return out


def _reads(part: _Part, path: Path) -> Iterator[tuple[Path, Reference]]:
    match part:
        case _Whole(expression):
            for reference in expression.reads:
                yield path, reference
        case _Text(parts):
            for one in parts:
                if isinstance(one, Expression):
                    for reference in one.reads:
                        yield path, reference
        case _Map(items):
            for key, item in items:
                yield from _reads(item, (*path, key))
        case _List(each):
            for index, item in enumerate(each):
                yield from _reads(item, (*path, index))
        case _Constant():
            pass


def _holes(part: _Part, path: Path) -> Iterator[Path]:
    match part:
        case _Whole() | _Text():
            yield path
        case _Map(items):
            for key, item in items:
                yield from _holes(item, (*path, key))
        case _List(each):
            for index, item in enumerate(each):
                yield from _holes(item, (*path, index))
        case _Constant():
            pass


def _hollow(part: _Part, hole: Any) -> Any:
    match part:
        case _Constant(value):
            return value
        case _Map(items):
            return {key: _hollow(item, hole) for key, item in items}
        case _List(each):
            return [_hollow(item, hole) for item in each]
        case _:
            return hole


class _Filling:
    """One filling-in, with what is left of its limit."""

    def __init__(self, scope: Mapping[str, Any], step: str, field: Path, limit: int) -> None:
        self._scope = scope
        self._step = step
        self._field = field
        self._limit = self._left = limit

    def make(self, part: _Part, path: Path) -> Any:
        match part:
            case _Constant(value):
                self._measure(value, path)
                return value
            case _Whole(expression):
                value = self._value(expression, path)
                self._measure(value, path)
                return value
            case _Text(parts):
                return "".join(one if isinstance(one, str) else self._text(one, path) for one in parts)
            case _Map(items):
                return {key: self.make(item, (*path, key)) for key, item in items}
            case _List(each):
                return [self.make(item, (*path, index)) for index, item in enumerate(each)]

    def _value(self, expression: Expression, path: Path) -> Any:
        return expression.value(self._scope, step=self._step, field=self._at(path), limit=self._limit)

    def _text(self, expression: Expression, path: Path) -> str:
        value = self._value(expression, path)
        self._measure(value, path)
        if isinstance(value, str):
            return value
        try:
            return json.dumps(value, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            raise self._error(f"{describe(value)} holds what is no JSON value", path) from None

    def _measure(self, value: Any, path: Path) -> None:
        try:
            self._left -= measure(value, self._left)
        except TooLargeError:
            raise self._too_large(path) from None

    def _too_large(self, path: Path) -> ExpressionError:
        return self._error(f"filled in it is larger than {self._limit} bytes, the limit of a variable", path)

    def _error(self, reason: str, path: Path) -> ExpressionError:
        return ExpressionError(reason, step=self._step, field=self._at(path))

    def _at(self, path: Path) -> str:
        return show_path((*self._field, *path))
