"""One condition of a selector: a key (a label or a field path), an operator, values, and when it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from roster.errors import SelectorError
from roster.passport import fields
from roster.passport.quantity import parse_quantity
from roster.passport.words import foreign_letter, quote

MAX_VALUES = 256

_FIELD_ROOTS = ("metadata.", "spec.", "status.")
# What a field path finds where the document leaves a field with a default out.
_DEFAULTS: Mapping[tuple[str, ...], Any] = {
    ("metadata", "namespace"): fields.DEFAULT_NAMESPACE,
    ("spec", "type"): fields.DEFAULT_TYPE,
    ("spec", "resources", "max_concurrent_tasks"): 1,
    ("status", "state"): fields.DEFAULT_STATE,
}
_MISSING: Any = object()


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on one key.

    Attributes:
        key: a label key or a field path.
        operator: `=`, `!=`, `in`, `notin`, `exists`, `!`, `>` or `<`.
        values: sorted and without repeats; empty for `exists` and `!`.
    """

    key: str
    operator: str
    values: tuple[str, ...] = ()

    @property
    def is_field(self) -> bool:
        """Whether the key is a field path."""
        return _is_field(self.key)

    def __str__(self) -> str:
        match self.operator:
            case "exists":
                return self.key
            case "!":
                return f"!{self.key}"
            case "in" | "notin":
                return f"{self.key} {self.operator} ({','.join(self.values)})"
            case _:
                return f"{self.key}{self.operator}{self.values[0]}"

    def matches(self, labels: Mapping[str, str], document: Mapping[str, Any] | None) -> bool:
        """Tell whether it holds."""
        is_field = _is_field(self.key)
        found: Any = _lookup(document, self.key) if is_field else labels.get(self.key, _MISSING)
        present = found is not _MISSING
        match self.operator:
            case "exists":
                return present
            case "!":
                return not present
            case "=" | "in":
                return present and _as_text(found) in self.values
            case "!=" | "notin":
                return not present or _as_text(found) not in self.values
            case _:
                number: Callable[[Any], Any] = parse_quantity if is_field else _integer
                left, right = (number(found) if present else None), number(self.values[0])
                if left is None or right is None:
                    return False
                return bool(left > right if self.operator == ">" else left < right)


def _is_field(key: str) -> bool:
    return key.startswith(_FIELD_ROOTS) and "/" not in key


def _lookup(document: Mapping[str, Any] | None, key: str) -> Any:
    if document is None:
        return _MISSING
    root, _, rest = key.partition(".")
    path = [root, *rest.split(".")]
    if root == "metadata" and path[1] in ("labels", "annotations") and len(path) > 2:
        # Their keys have dots of their own.
        path = [root, path[1], rest.partition(".")[2]]
    at: Any = document
    for step in path:
        at = at.get(step) if isinstance(at, Mapping) else None
        if at is None:
            return _DEFAULTS.get(tuple(path), _MISSING)
    return at


def _as_text(value: Any) -> str | None:
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case _:
            return None  # a map or a list is there, and equals no text


def _integer(text: str) -> int | None:
    """Read what Go's strconv.ParseInt(text, 10, 64) reads."""
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not digits.isascii() or not digits.isdigit() or len(digits) > 400:
        return None
    number = int(text)
    return number if -(2**63) <= number < 2**63 else None


def make_requirement(key: str, operator: str, values: tuple[str, ...], where: str = "") -> Requirement:
    """Check one requirement as Kubernetes does, and return it.

    Raises:
        SelectorError: says what is wrong.
    """
    is_field = _is_field(key)
    if is_field:
        if any(not step for step in key.split(".")) or len(key) > 317:
            raise SelectorError(f"{quote(key)} is not a field path such as status.state{where}")
    elif not fields.is_label_key(key):
        raise SelectorError(
            f"{quote(key)} is not a label key{foreign_letter(key)}{where}: expected 1-63 of letters, "
            "digits, -, _ and ., with a letter or digit at both ends, and perhaps a DNS prefix and / before"
        )
    if operator in ("in", "notin") and not values:
        raise SelectorError(f"{quote(key)}: {operator} needs at least one value in parentheses{where}")
    if len(values) > MAX_VALUES:
        raise SelectorError(f"{quote(key)}: {len(values)} values, at most {MAX_VALUES}{where}")
    for value in values:
        if operator in (">", "<"):
            good = parse_quantity(value) is not None if is_field else _integer(value) is not None
            if not good:
                what = "a number or quantity such as 4Gi" if is_field else "a whole number"
                raise SelectorError(f"{quote(key)}: {operator} needs {what}, found {quote(value)}{where}")
        elif not is_field and not fields.is_label_value(value):
            raise SelectorError(
                f"{quote(key)}: {quote(value)} is not a label value{foreign_letter(value)}{where}: at most "
                "63 of ASCII letters, digits, -, _ and ., with a letter or digit at both ends"
            )
    return Requirement(key, operator, tuple(sorted(set(values))))
