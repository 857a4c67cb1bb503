"""From a Python function to a capability: its signature against the passport, params to arguments, results to JSON."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from roster.errors import InvalidParamsError, InvalidResultError, NodeError
from roster.node.context import Context
from roster.passport import Capability, SchemaValidator
from roster.passport.validator import DRAFT

_PLAIN: tuple[object, ...] = (str, int, float, bool, dict, list, Any, object, inspect.Parameter.empty)
_NUMERIC = frozenset({"integer", "number"})


@dataclasses.dataclass(slots=True)
class Handler:
    """A function that serves one capability."""

    capability: Capability
    function: Callable[..., Any]
    is_async: bool
    names: frozenset[str]
    open: bool
    context_name: str | None
    converters: dict[str, Any]
    input_validator: SchemaValidator | None
    output_validator: SchemaValidator | None

    def check_params(self, params: Mapping[str, Any]) -> None:
        """Hold params against the input schema.

        Raises:
            InvalidParamsError: naming every fault.
        """
        if self.input_validator is not None and (faults := self.input_validator.validate(params)):
            raise InvalidParamsError(
                f"params of {self.capability.name} are wrong: "
                + "; ".join(f"{fault.path or 'params'}: {fault.message}" for fault in faults),
                outcome="refused",
            )

    def arguments(self, params: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """Turn params into keyword arguments, values of rich types (models, dataclasses, enums, dates) included.

        Raises:
            InvalidParamsError: a value cannot become what the function's annotation asks for.
        """
        arguments = (
            dict(params) if self.open else {name: params[name] for name in params if name in self.names}
        )
        for name, adapter in self.converters.items():
            if name in arguments:
                try:
                    arguments[name] = adapter.validate_python(arguments[name])
                except ValueError as error:
                    raise InvalidParamsError(
                        f"params of {self.capability.name} are wrong: {name}: {error}", outcome="refused"
                    ) from error
        if self.context_name is not None:
            arguments[self.context_name] = context
        return arguments

    def result(self, value: Any) -> Any:
        """Turn what the function returned into JSON values and hold them against the output schema.

        Raises:
            InvalidResultError: naming every fault.
        """
        if value is not None and not isinstance(value, (dict, list, str, int, float, bool)):
            value = _to_json(value)
        if self.output_validator is not None and (faults := self.output_validator.validate(value)):
            raise InvalidResultError(
                f"the result of {self.capability.name} contradicts its output schema: "
                + "; ".join(f"{fault.path or 'result'}: {fault.message}" for fault in faults)
            )
        return value


def _to_json(value: Any) -> Any:
    from pydantic_core import PydanticSerializationError, to_jsonable_python

    try:
        return to_jsonable_python(value)
    except (PydanticSerializationError, ValueError) as error:
        raise InvalidResultError(
            f"a result of type {type(value).__name__} cannot be written as JSON: {error}"
        ) from error


def bind(capability: Capability, function: Callable[..., Any]) -> Handler:
    """Hold a function against the capability that it is to serve.

    Where the passport gives no schema, the annotations give it.

    Raises:
        NodeError: the function contradicts the passport; the message names every contradiction.
    """
    try:
        signature = inspect.signature(function)
        hints = typing.get_type_hints(function)
    except (TypeError, ValueError, NameError) as error:
        raise NodeError(f"the handler of {capability.name} cannot be inspected: {error}") from error
    context_name, fields, is_open, faults = _parameters(signature, hints)
    schema = capability.input_json_schema
    if schema is None and fields and not is_open:
        schema = _schema_of(capability.name, fields)
    elif schema is not None:
        faults += _contradictions(schema, fields, is_open)
        schema = _with_defaults(schema, fields)
    output = capability.output_json_schema
    returned = hints.get("return")
    if output is None and returned not in (None, Any, inspect.Parameter.empty):
        output = _json_schema(returned, mode="serialization")
    elif output is not None and returned not in (None, Any):
        faults += _type_faults("the result", output, _json_schema(returned, mode="serialization"))
    converters = {name: _adapter(hint) for name, (hint, _) in fields.items() if not _is_plain(hint)}
    faults += [
        f"the type of {name!r} is not fully defined"
        for name, one in converters.items()
        if not one.pydantic_complete
    ]
    if faults:
        where = getattr(function, "__qualname__", repr(function))
        raise NodeError(
            f"the handler {where} contradicts the passport's capability {capability.name}: "
            + "; ".join(faults)
        )
    return Handler(
        capability=capability,
        function=function,
        is_async=inspect.iscoroutinefunction(inspect.unwrap(function))
        or inspect.iscoroutinefunction(getattr(function, "__call__", None)),  # noqa: B004 - an instance with async __call__
        names=frozenset(fields),
        open=is_open,
        context_name=context_name,
        converters=converters,
        input_validator=SchemaValidator.of(schema) if schema is not None else None,
        output_validator=SchemaValidator.of(output) if output is not None else None,
    )


def schemas_of(function: Callable[..., Any]) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return the JSON Schemas of params and result that a function's annotations give; None where they give none.

    Raises:
        NodeError: the function cannot serve a capability, whatever its passport says.
    """
    name = getattr(function, "__name__", "function")
    try:
        hints = typing.get_type_hints(function)
        _, fields, is_open, faults = _parameters(inspect.signature(function), hints)
    except (TypeError, ValueError, NameError) as error:
        raise NodeError(f"the handler {name} cannot be inspected: {error}") from error
    if faults:
        raise NodeError(f"the handler {name} cannot serve a capability: {'; '.join(faults)}")
    given = _schema_of(name, fields) if fields and not is_open else None
    returned = hints.get("return")
    result = None if returned in (None, Any) else _json_schema(returned, mode="serialization")
    return given, None if result is None else {"$schema": DRAFT, **result}


def _parameters(
    signature: inspect.Signature, hints: Mapping[str, Any]
) -> tuple[str | None, dict[str, tuple[Any, bool]], bool, list[str]]:
    """Return the context's parameter, each parameter's hint and whether it is required, `**kwargs`, and faults."""
    context_name: str | None = None
    fields: dict[str, tuple[Any, bool]] = {}
    is_open = False
    faults: list[str] = []
    for name, parameter in signature.parameters.items():
        hint = hints.get(name, Any)
        if hint is Context:
            context_name = name
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            is_open = True
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            faults.append(f"*{name} cannot be filled from named params")
        elif parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            faults.append(f"{name} is positional-only, params come by name")
        else:
            fields[name] = (hint, parameter.default is inspect.Parameter.empty)
    return context_name, fields, is_open, faults


def _is_plain(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return all(_is_plain(part) or part is type(None) for part in typing.get_args(hint))
    if origin in (dict, list):
        return all(_is_plain(part) for part in typing.get_args(hint))
    return any(hint is plain for plain in _PLAIN)


def _adapter(hint: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(hint)


def _json_schema(
    hint: Any, mode: typing.Literal["validation", "serialization"] = "validation"
) -> dict[str, Any] | None:
    from pydantic.errors import PydanticUserError

    try:
        schema: dict[str, Any] = _adapter(hint).json_schema(mode=mode)
    except PydanticUserError:  # a type that JSON knows nothing of: no schema can be given for it
        return None
    return schema


def _schema_of(title: str, fields: Mapping[str, tuple[Any, bool]]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    definitions: dict[str, Any] = {}
    for name, (hint, _) in fields.items():
        schema = _json_schema(hint) or {}
        definitions.update(schema.pop("$defs", {}))
        properties[name] = schema
    out: dict[str, Any] = {
        "$schema": DRAFT,
        "title": title,
        "type": "object",
        "properties": properties,
        "required": [name for name, (_, required) in fields.items() if required],
        "additionalProperties": False,
    }
    if definitions:
        out["$defs"] = definitions
    return out


def _with_defaults(
    schema: dict[str, Any] | bool, fields: Mapping[str, tuple[Any, bool]]
) -> dict[str, Any] | bool:
    """Let params be left out for which the function has a default: the default fills them in."""
    if isinstance(schema, bool) or not isinstance(required := schema.get("required"), list):
        return schema
    return {**schema, "required": [name for name in required if name not in fields or fields[name][1]]}


def _contradictions(
    schema: Mapping[str, Any] | bool, fields: Mapping[str, tuple[Any, bool]], is_open: bool
) -> list[str]:
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    if not isinstance(schema, Mapping) or not isinstance(properties, dict):
        return []
    faults = [
        f"the passport's input has {name!r}, the function has no such parameter"
        for name in properties
        if name not in fields and not is_open
    ]
    required = set(schema.get("required", ()))
    for name, (hint, needed) in fields.items():
        if name not in properties:
            if needed:
                faults.append(f"the function needs {name!r}, the passport's input does not have it")
        elif needed and name not in required:
            faults.append(
                f"the passport lets {name!r} be left out, the function needs it: give the parameter a default"
            )
        else:
            faults += _type_faults(repr(name), properties[name], _json_schema(hint))
    return faults


def _type_faults(what: str, declared: Any, hinted: Mapping[str, Any] | None) -> list[str]:
    """Compare the plain JSON types on both sides; anything richer is left to the validators."""
    if not isinstance(declared, dict) or hinted is None:
        return []
    left, right = _types(declared), _types(hinted)
    if not left or not right or left & right or (left & _NUMERIC and right & _NUMERIC):
        return []
    return [
        f"{what} is {' or '.join(sorted(left))} in the passport, {' or '.join(sorted(right))} in the function"
    ]


def _types(schema: Mapping[str, Any]) -> frozenset[str]:
    kind = schema.get("type")
    if isinstance(kind, str):
        return frozenset({kind})
    if isinstance(kind, list):
        return frozenset(part for part in kind if isinstance(part, str))
    if options := schema.get("anyOf"):
        parts = [_types(option) for option in options if isinstance(option, dict)]
        if all(parts):
            return frozenset().union(*parts)
    return frozenset()
