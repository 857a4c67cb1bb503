"""One capability of a passport: its names and numbers, and its contract."""

from __future__ import annotations

import copy
from hashlib import blake2b
from typing import Any

from roster.passport import schema
from roster.passport.rules import JsonSchema
from roster.passport.validator import SchemaValidator
from roster.passport.views import view

_UNSET: Any = object()


class Capability:
    """A named thing that a node can do. Immutable.

    Attributes:
        name: what callers ask for.
    """

    __slots__ = ("_data", "_digest", "_input", "_node_version", "_output", "name")

    name: str
    _data: dict[str, Any]
    _digest: str | None
    _input: Any
    _node_version: str | None
    _output: Any

    def __init__(self, data: dict[str, Any], node_version: str | None = None) -> None:
        put = object.__setattr__
        put(self, "_data", data)
        put(self, "_node_version", node_version)
        put(self, "name", data["name"])
        put(self, "_digest", None)
        put(self, "_input", _UNSET)
        put(self, "_output", _UNSET)

    def __setattr__(self, name: str, _value: Any) -> None:
        raise AttributeError(f"a capability cannot be changed ({name})")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a capability cannot be changed ({name})")

    @property
    def description(self) -> str:
        """What it does; empty when the passport does not say."""
        return self._data.get("description") or ""

    @property
    def version(self) -> str | None:
        """Its own version, else the node's."""
        return self._data.get("version") or self._node_version

    @property
    def tags(self) -> tuple[str, ...]:
        """Words to group it by."""
        return tuple(self._data.get("tags") or ())

    @property
    def idempotent(self) -> bool | None:
        """Whether doing it twice does no harm; None when the passport does not say."""
        return self._data.get("idempotent")

    @property
    def timeout(self) -> float | None:
        """Seconds that one call may take; None when the passport does not say."""
        return self._data.get("timeout")

    @property
    def input_schema(self) -> Any:
        """The schema of its params as written (read-only), or None."""
        return view(self._data.get("input_schema"))

    @property
    def output_schema(self) -> Any:
        """The schema of its result as written (read-only), or None."""
        return view(self._data.get("output_schema"))

    @property
    def input_json_schema(self) -> JsonSchema | bool | None:
        """The schema of its params as JSON Schema 2020-12 (a copy), or None: no contract.

        Raises:
            DocumentError: it came from the store, where schemas are not looked at, and cannot be read.
        """
        return copy.deepcopy(schema.expand(self._data.get("input_schema"), "input"))

    @property
    def caller_json_schema(self) -> JsonSchema | bool | None:
        """The schema that a caller can hold params against before it sends them (a copy), or None: no contract.

        The founding document declares `style: string` and calls without a style: a field of the shorthand may be left out
        where the function behind it has a default, and only the node knows that. So a caller looks at everything but
        whether a shorthand's field is there; the node looks at that too. A JSON Schema means what it says.

        Raises:
            DocumentError: as `input_json_schema`.
        """
        written, expanded = self._data.get("input_schema"), self.input_json_schema
        if isinstance(written, dict) and isinstance(expanded, dict) and not schema.is_json_schema(written):
            expanded.pop("required", None)
        return expanded

    @property
    def output_json_schema(self) -> JsonSchema | bool | None:
        """The schema of its result as JSON Schema 2020-12 (a copy), or None: no contract.

        Raises:
            DocumentError: as `input_json_schema`.
        """
        return copy.deepcopy(schema.expand(self._data.get("output_schema"), "output"))

    @property
    def input_validator(self) -> SchemaValidator | None:
        """What checks its params, compiled once; None when there is no contract.

        Raises:
            DocumentError: the schema cannot be used.
        """
        if self._input is _UNSET:
            expanded = schema.expand(self._data.get("input_schema"), "input")
            object.__setattr__(self, "_input", None if expanded is None else SchemaValidator.of(expanded))
        return self._input  # type: ignore[no-any-return]  # a slot that begins unset

    @property
    def output_validator(self) -> SchemaValidator | None:
        """What checks its result, compiled once; None when there is no contract.

        Raises:
            DocumentError: the schema cannot be used.
        """
        if self._output is _UNSET:
            expanded = schema.expand(self._data.get("output_schema"), "output")
            object.__setattr__(self, "_output", None if expanded is None else SchemaValidator.of(expanded))
        return self._output  # type: ignore[no-any-return]  # a slot that begins unset

    @property
    def digest(self) -> str:
        """The digest of its contract: equal wherever params and result are declared alike, in either form."""
        if self._digest is not None:
            return self._digest
        made = schema.digest(self._data.get("input_schema"), self._data.get("output_schema"))
        object.__setattr__(self, "_digest", made)
        return made

    @property
    def spelling(self) -> bytes:
        """16 bytes that are equal for contracts written alike: cheap, and where they differ `digest` has the last word."""
        written = repr((self._data.get("input_schema"), self._data.get("output_schema")))
        return blake2b(written.encode("utf-8", "surrogatepass"), digest_size=16).digest()

    def to_dict(self) -> dict[str, Any]:
        """Return it as the passport has it, unknown fields included (a copy)."""
        return copy.deepcopy(self._data)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Capability):
            return NotImplemented
        return self._data == other._data and self._node_version == other._node_version

    def __hash__(self) -> int:
        return hash((self.name, self._node_version))

    def __reduce__(self) -> tuple[Any, ...]:
        return Capability, (self._data, self._node_version)

    def __repr__(self) -> str:
        return f"Capability({self.name!r}, version={self.version!r})"
