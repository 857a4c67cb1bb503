"""Label selectors, exactly as Kubernetes reads them, and field paths beside the labels.

String form: `role=writer,tier in (a,b),stage!=old,!legacy,gpu,cores>4`. Map form: `{matchLabels: {...},
matchExpressions: [{key, operator, values}]}`. A key without `/` that begins with `metadata.`, `spec.` or
`status.` is a field path (`spec.resources.memory>4Gi`); every other key is a label.

Source: k8s.io/apimachinery/pkg/labels/selector.go (the grammar, and which requirement matches an absent key).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from roster.errors import SelectorError
from roster.passport.requirement import Requirement, make_requirement
from roster.passport.selector_text import requirements
from roster.passport.words import describe, quote

MAX_CHARS = 4096
MAX_REQUIREMENTS = 64

_WORD_OPERATORS = {
    "In": "in",
    "NotIn": "notin",
    "Exists": "exists",
    "DoesNotExist": "!",
    "Gt": ">",
    "Lt": "<",
}


class Selector:
    """A conjunction of requirements. Immutable; equal when the canonical text is.

    Example:
        >>> Selector.parse("role=writer,stage notin (old)").matches({"role": "writer"})
        True
    """

    __slots__ = ("_text", "requirements")

    requirements: tuple[Requirement, ...]
    _text: str

    def __init__(self, requirements: tuple[Requirement, ...] = ()) -> None:
        ordered = tuple(sorted(set(requirements), key=lambda each: (each.key, str(each))))
        object.__setattr__(self, "requirements", ordered)
        object.__setattr__(self, "_text", ",".join(str(each) for each in ordered))

    @classmethod
    def parse(cls, source: str | Mapping[str, Any] | Selector | None) -> Selector:
        """Read a selector.

        Args:
            source: the string form; a map with `matchLabels` and `matchExpressions`; a plain map of label to
                value; or None, which like an empty string matches everything.

        Raises:
            SelectorError: says where it stopped, and what was expected there.
        """
        if source is None:
            return _EMPTY
        if isinstance(source, Selector):
            return source
        if isinstance(source, str):
            return _parse_text(source)
        if isinstance(source, Mapping):
            return _from_map(source)
        raise SelectorError(f"a selector is text or a map, not {describe(source)}")

    @property
    def empty(self) -> bool:
        """Whether it matches everything."""
        return not self.requirements

    @property
    def needs_document(self) -> bool:
        """Whether a field path is in it, so that `matches` must be given the document."""
        return any(each.is_field for each in self.requirements)

    def matches(self, labels: Mapping[str, str], document: Mapping[str, Any] | None = None) -> bool:
        """Tell whether all requirements hold.

        Args:
            labels: the labels.
            document: the passport, for field paths; without one every field counts as absent.
        """
        return all(each.matches(labels, document) for each in self.requirements)

    def __setattr__(self, name: str, _value: Any) -> None:
        raise AttributeError(f"a selector cannot be changed ({name})")

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Selector({self._text!r})"

    def __eq__(self, other: object) -> bool:
        return self._text == other._text if isinstance(other, Selector) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> tuple[Any, ...]:
        return Selector, (self.requirements,)


_EMPTY = Selector()


def _bounded(requirements: list[Requirement]) -> Selector:
    if len(requirements) > MAX_REQUIREMENTS:
        raise SelectorError(f"a selector of {len(requirements)} requirements: at most {MAX_REQUIREMENTS}")
    return Selector(tuple(requirements))


@lru_cache(maxsize=1024)
def _parse_text(text: str) -> Selector:
    if len(text) > MAX_CHARS:
        raise SelectorError(f"a selector of {len(text)} characters: at most {MAX_CHARS}")
    return _bounded(requirements(text))


def _from_map(source: Mapping[str, Any]) -> Selector:
    if not source.keys() & {"matchLabels", "matchExpressions"}:
        return _bounded(_equalities(source, "the selector"))
    if unknown := [key for key in source if key not in ("matchLabels", "matchExpressions")]:
        raise SelectorError(
            f"unknown key {quote(str(unknown[0]))} in a selector: expected matchLabels, matchExpressions"
        )
    labels = source.get("matchLabels") or {}
    if not isinstance(labels, Mapping):
        raise SelectorError(f"matchLabels: expected a map of label to value, found {describe(labels)}")
    out = _equalities(labels, "matchLabels")
    expressions = source.get("matchExpressions") or ()
    if isinstance(expressions, str | Mapping) or not hasattr(expressions, "__len__"):
        raise SelectorError(f"matchExpressions: expected a list, found {describe(expressions)}")
    if len(expressions) > MAX_REQUIREMENTS:
        raise SelectorError(f"a selector of {len(expressions)} requirements: at most {MAX_REQUIREMENTS}")
    out += [_expression(each, f"matchExpressions[{index}]") for index, each in enumerate(expressions)]
    return _bounded(out)


def _equalities(labels: Mapping[Any, Any], where: str) -> list[Requirement]:
    if len(labels) > MAX_REQUIREMENTS:
        raise SelectorError(f"a selector of {len(labels)} requirements: at most {MAX_REQUIREMENTS}")
    for key, value in labels.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise SelectorError(
                f"{where}: expected a map of text to text, found {describe(key)}: {describe(value)}"
            )
    return [make_requirement(key, "=", (value,), f" in {where}") for key, value in labels.items()]


def _expression(each: Any, where: str) -> Requirement:
    if not isinstance(each, Mapping) or not isinstance(each.get("key"), str):
        raise SelectorError(f"{where}: expected a map with key, operator and values, found {describe(each)}")
    if unknown := [key for key in each if key not in ("key", "operator", "values")]:
        raise SelectorError(f"{where}: unknown key {quote(str(unknown[0]))}: expected key, operator, values")
    operator = each.get("operator")
    if not isinstance(operator, str) or operator not in _WORD_OPERATORS:
        known = ", ".join(_WORD_OPERATORS)
        raise SelectorError(f"{where}: expected as operator one of {known}, found {describe(operator)}")
    values = each.get("values") or ()
    if isinstance(values, str | Mapping) or not hasattr(values, "__iter__"):
        raise SelectorError(f"{where}: expected as values a list of text, found {describe(values)}")
    values = tuple(values)
    if wrong := [value for value in values if not isinstance(value, str)]:
        raise SelectorError(
            f"{where}: expected as values a list of text, found {describe(wrong[0])} in it: put it in quotes"
        )
    if operator in ("Exists", "DoesNotExist") and values:
        raise SelectorError(f"{where}: {operator} takes no values")
    if operator in ("Gt", "Lt") and len(values) != 1:
        raise SelectorError(f"{where}: {operator} takes exactly one value, found {len(values)}")
    return make_requirement(each["key"], _WORD_OPERATORS[operator], values, f" in {where}")
