"""The value of an expression: names are looked up here, comparisons are CEL's.

No character of a card ever reaches CEL. Each reference and each literal becomes a variable (`v0`, `v1`, ...), so what CEL
compiles is made of these, operators and brackets, and what it is given are plain JSON values within bounds. A lone
reference does not go through CEL at all: it is a way through maps and lists, and keeps its type.

Source: CEL's language definition for `&&` and `||`, which absorb an error where the other side decides, so that
`"score" in review && review.score > 5` has a value where there is no score.
"""

from __future__ import annotations

import importlib.util
import math
import re
import sys
import threading
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from pathlib import Path
from typing import Any

from roster.cards.syntax import (
    MAX_INTEGER,
    Compare,
    Junction,
    Literal,
    Not,
    Reference,
    Several,
    SyntaxFault,
    Tree,
    parse_condition,
    parse_embedded,
    references,
)
from roster.errors import ConfigError, ExpressionError
from roster.passport.words import describe, quote

# What one expression may be given: a comparison of whole documents is a mistake, and each value is copied into CEL.
MAX_VALUES = 10_000
_UNDEFINED = re.compile(r"[Uu]ndefined variable or function: '(v[0-9]+)'")
_EXTENSION = "cel.cel"
_loading = threading.Lock()
_PLAIN = (type(None), bool, int, float, str, list, dict)


class _NoValueError(Exception):
    """A reference leads nowhere; says why."""


class Expression:
    """One expression of a card. Immutable.

    Attributes:
        tree: what it says.
        reads: what it looks up, from left to right.

    Example:
        >>> Expression.condition("${score} >= 8").value({"score": 9}, step="check", field="condition")
        True
    """

    __slots__ = ("reads", "tree")

    tree: Tree
    reads: tuple[Reference, ...]

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.reads = tuple(dict.fromkeys(references(tree)))

    @classmethod
    def condition(cls, text: str) -> Expression:
        """Read a text that is one expression as a whole.

        Raises:
            SyntaxFault: it is none.
        """
        return cls(parse_condition(text))

    @classmethod
    def embedded(cls, text: str, start: int) -> tuple[Expression, int]:
        """Read the expression behind the `${` that ends at `start`; return it, and where the text goes on.

        Raises:
            SyntaxFault: it is none.
        """
        tree, end = parse_embedded(text, start)
        return cls(tree), end

    def value(self, scope: Mapping[str, Any], *, step: str, field: str, limit: int = 10 * 2**20) -> Any:
        """Return what it comes to. A lone reference gives the value itself, which is shared: do not change it.

        Args:
            scope: the variables, plain JSON values.
            step: the step's id, for errors.
            field: where in the step it stands, for errors.
            limit: characters of all values that it compares.

        Raises:
            ExpressionError: a name that is not set, types that do not compare, values over the limit.
        """
        for reference in self.reads:
            if reference.root not in scope:
                reason = f"{quote(reference.root)} is not set{_near(reference.root, scope)}"
                raise ExpressionError(reason, step=step, field=field)
        try:
            return _value(self.tree, scope, limit)
        except _NoValueError as error:
            raise ExpressionError(str(error), step=step, field=field) from None

    def holds(self, scope: Mapping[str, Any], *, step: str, field: str, limit: int = 10 * 2**20) -> bool:
        """Return what it comes to as a condition.

        Raises:
            ExpressionError: as `value`; or it is neither true nor false.
        """
        found = self.value(scope, step=step, field=field, limit=limit)
        if not isinstance(found, bool):
            reason = f"a condition is true or false, found {describe(found)}: compare it with something"
            raise ExpressionError(reason, step=step, field=field)
        return found

    def __eq__(self, other: object) -> bool:
        return self.tree == other.tree if isinstance(other, Expression) else NotImplemented

    def __hash__(self) -> int:
        return hash(str(self.tree))

    def __repr__(self) -> str:
        return f"Expression({self.tree!r})"


def _near(name: str, names: Mapping[str, Any]) -> str:
    import difflib

    near = difflib.get_close_matches(name[:100], [each for each in names if len(each) <= 100], n=1)
    return f", did you mean {quote(near[0])}?" if near else ""


def _value(tree: Tree, scope: Mapping[str, Any], limit: int) -> Any:
    match tree:
        case Reference():
            return look_up(tree, scope)
        case Literal(value):
            return value
        case Several(items):
            return [_value(item, scope, limit) for item in items]
    return _by_cel(tree, scope, limit)


def look_up(reference: Reference, scope: Mapping[str, Any]) -> Any:
    """Follow a reference through plain maps and lists; nothing else is ever looked into."""
    value: Any = scope[reference.root]
    for depth, step in enumerate(reference.steps[1:], 1):
        so_far = Reference(reference.steps[:depth])
        if type(value) is dict and isinstance(step, str):
            if step not in value:
                raise _NoValueError(f"{so_far} has no field {quote(step)}{_near(step, value)}")
            value = value[step]
        elif type(value) is list and isinstance(step, int):
            if step >= len(value):
                items = "1 item" if len(value) == 1 else f"{len(value)} items"
                raise _NoValueError(f"{so_far} has {items}, and no [{step}] (the first is [0])")
            value = value[step]
        else:
            what = f"field {quote(step)}" if isinstance(step, str) else f"item [{step}]"
            raise _NoValueError(f"{so_far} is {describe(value)}, and has no {what}")
    if type(value) not in _PLAIN:
        raise _NoValueError(f"{reference} is {describe(value)}, which is no JSON value")
    return value


class _Leaves:
    """The values of one evaluation: each reference and literal under a name of ours, within bounds."""

    def __init__(self, scope: Mapping[str, Any], limit: int) -> None:
        self.values: dict[str, Any] = {}
        self.missing: dict[str, _NoValueError] = {}
        self.shown: dict[str, str] = {}
        self._scope = scope
        self._left = limit
        self._nodes = MAX_VALUES
        self._names: dict[Reference, str] = {}

    def source(self, tree: Tree) -> str:
        """Return a tree in CEL."""
        match tree:
            case Reference():
                if tree not in self._names:
                    self._names[tree] = self._reference(tree)
                return self._names[tree]
            case Literal(value):
                return self._add(value)
            case Several(items):
                return f"[{', '.join(map(self.source, items))}]"
            case Not(inner):
                return f"!({self.source(inner)})"
            case Compare(operator, left, right):
                return f"({self.source(left)}) {operator} ({self.source(right)})"
            case Junction(operator, parts):
                return f" {operator} ".join(f"({self.source(part)})" for part in parts)

    def _reference(self, reference: Reference) -> str:
        try:
            value = look_up(reference, self._scope)
        except _NoValueError as error:
            # Whether that matters is for && and || to say: CEL is given no such variable.
            name = f"v{len(self.values) + len(self.missing)}"
            self.missing[name] = error
            return name
        self._count(value, reference)
        name = self._add(value)
        self.shown[name] = f"{reference} is {describe(value)}"
        return name

    def _add(self, value: Any) -> str:
        name = f"v{len(self.values) + len(self.missing)}"
        if type(value) is int and not -MAX_INTEGER - 1 <= value <= MAX_INTEGER:
            value = float(value)
        self.values[name] = value
        return name

    def _count(self, value: Any, reference: Reference) -> None:
        stack = [value]
        while stack:
            part = stack.pop()
            kind = type(part)
            self._nodes -= 1
            if kind is str:
                self._left -= len(part)
            elif kind is list:
                self._nodes -= len(part)
                if self._nodes >= 0:
                    stack.extend(part)
            elif kind is dict:
                self._nodes -= len(part)
                if self._nodes >= 0:
                    stack.extend(part)
                    stack.extend(part.values())
            elif kind not in _PLAIN or (kind is float and not math.isfinite(part)):
                raise _NoValueError(f"{reference} holds {describe(part)}, which is no JSON value")
            if self._nodes < 0 or self._left < 0:
                raise _NoValueError(
                    f"{reference} is too large to be compared (at most {MAX_VALUES} values, with a limited number of "
                    "characters): compare a field of it"
                )


def _by_cel(tree: Tree, scope: Mapping[str, Any], limit: int) -> bool:
    leaves = _Leaves(scope, limit)
    program = _compiled(leaves.source(tree))
    try:
        found = program(leaves.values)
    except (
        TypeError,
        ValueError,
        RuntimeError,
        KeyError,
        IndexError,
        OverflowError,
        ArithmeticError,
    ) as error:
        undefined = _UNDEFINED.search(str(error))
        if undefined is not None and undefined[1] in leaves.missing:
            raise leaves.missing[undefined[1]] from None
        where = "; ".join(leaves.shown.values())
        raise _NoValueError(
            f"these do not compare{f': {where}' if where else ''}: {_plainly(tree)}"
        ) from None
    if type(found) is not bool:
        raise _NoValueError(
            f"expected true or false on both sides of && and ||: {'; '.join(leaves.shown.values())}"
        )
    return found


def _plainly(tree: Tree) -> str:
    match tree:
        case Compare(operator="in"):
            return '"in" takes a list, or a map and a name'
        case Compare():
            return "< <= > >= take two numbers or two texts"
        case _:
            return "< <= > >= take two numbers or two texts, && || ! take true and false"


@lru_cache(maxsize=1024)
def _compiled(source: str) -> Callable[[Mapping[str, Any]], Any]:
    """Return what evaluates a source; few shapes serve many expressions, because all their values are variables."""
    program = _cel().compile(source)
    execute: Callable[[Mapping[str, Any]], Any] = program.execute
    return execute


def _cel() -> Any:
    """Load CEL, once.

    The package's own `__init__` loads a command line with prompt_toolkit: 0.3 to 0.6 s and 30 MB, where the extension module
    alone takes 1 to 15 ms. So the extension is loaded from beside it, under its own name: a second load of it panics, and
    whoever imports the package in this process before or after meets the same module.

    Raises:
        ConfigError: it is not installed.
    """
    with _loading:
        if _EXTENSION not in sys.modules:
            spec = _extension()
            module = importlib.util.module_from_spec(spec)
            sys.modules[_EXTENSION] = module
            try:
                spec.loader.exec_module(module)  # type: ignore[union-attr]  # a spec from a file's place has a loader
            except BaseException:
                del sys.modules[_EXTENSION]
                raise
        return sys.modules[_EXTENSION]


def _extension() -> ModuleSpec:
    package = importlib.util.find_spec("cel")
    for folder in (package.submodule_search_locations or ()) if package is not None else ():
        for suffix in EXTENSION_SUFFIXES:
            path = Path(folder, f"cel{suffix}")
            spec = importlib.util.spec_from_file_location(_EXTENSION, path) if path.is_file() else None
            if spec is not None:
                return spec
    raise ConfigError(
        "comparisons in process cards need common-expression-language: install it with "
        "pip install 'agent-roster[cards]'"
    )


__all__ = ["Expression", "SyntaxFault", "look_up"]
