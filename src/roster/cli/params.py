"""The params of a call, as they are written on the command line: `k=v`, `k:=JSON`, a document."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from roster.cli.schemas import field_types
from roster.errors import ConfigError

MAX_BYTES = 4 * 1024 * 1024  # the bus refuses far less, with a better error; this only bounds what is read
_PAIR = re.compile(r"([^=:]+)(:=|=)(.*)", re.DOTALL)
_INTEGER = re.compile(r"[+-]?\d{1,4000}\Z")


def document_params(text: str | None, option: str = "--params") -> dict[str, Any]:
    """Read `--params`, or another option of its kind: JSON, `@FILE`, or `-` for standard input.

    Raises:
        typer.BadParameter: it is no JSON object.
        ConfigError: the file cannot be read.
    """
    if text is None:
        return {}
    what = option
    if text == "-":
        text, what = _decode(sys.stdin.buffer.read(MAX_BYTES + 1), "standard input"), "standard input"
    elif text.startswith("@"):
        what = text[1:]
        try:
            with Path(what).open("rb") as file:
                text = _decode(file.read(MAX_BYTES + 1), what)
        except OSError as error:
            raise ConfigError(f"cannot read {option} from {what}: {error.strerror}") from error
    else:
        _check_text(text, what)
    value = _json(text, what)
    if not isinstance(value, dict):
        raise typer.BadParameter(f'{what} must be a JSON object, such as {{"topic": "bees"}}')
    return value


def pair_params(
    pairs: Sequence[str], schemas: Sequence[Mapping[str, Any] | bool | None], option: str = "-p"
) -> dict[str, Any]:
    """Read `-p` options. `k:=JSON` is exact; `k=v` is what the capability's schema asks for, and text where it does not.

    Args:
        pairs: as given.
        schemas: input schemas of the nodes that offer the capability; the first that knows a field says its type.
        option: what they were given with.

    Raises:
        typer.BadParameter: one is no pair, or its value is not what the schema asks for.
    """
    out: dict[str, Any] = {}
    for pair in pairs:
        found = _PAIR.match(pair)
        if found is None:
            raise typer.BadParameter(f"{option} {pair!r}: write NAME=TEXT, or NAME:=JSON")
        name, sign, text = found.groups()
        _check_text(pair, f"{option} {name}")
        if name in out:
            raise typer.BadParameter(f"{option} {name} stands there twice: give it once")
        if sign == ":=":
            out[name] = _json(text, f"{option} {name}:=")
        else:
            types = next((types for schema in schemas if (types := field_types(schema, name))), [])
            out[name] = _typed(name, text, types)
    return out


def _typed(name: str, text: str, types: Sequence[str]) -> Any:
    if not types or "string" in types:
        return text
    for kind in types:
        try:
            match kind:
                case "integer" if _INTEGER.match(text):
                    return int(text)
                case "number":
                    return int(text) if _INTEGER.match(text) else _finite(text)
                case "boolean" if text.lower() in ("true", "false"):
                    return text.lower() == "true"
                case "null" if text in ("", "null"):
                    return None
                case "array" | "object":
                    value = _json(text, name)
                    if isinstance(value, list if kind == "array" else dict):
                        return value
                case _:
                    pass
        except (ValueError, typer.BadParameter):
            continue  # another type may take it; the error below names them all
    raise typer.BadParameter(f"-p {name}={text}: the capability wants {' or '.join(types)} here")


def _finite(text: str) -> float:
    value = float(text)
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError(text)
    return value


def _decode(raw: bytes, what: str) -> str:
    if len(raw) > MAX_BYTES:
        raise typer.BadParameter(
            f"{what} is larger than {MAX_BYTES // 1024 // 1024} MiB: pass a reference instead of the data"
        )
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"{what} is not UTF-8 (byte {error.start})") from None


def _check_text(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        # What the locale cannot read comes as halves of characters.
        raise typer.BadParameter(
            f"{what} is no text in this locale's encoding (at character {error.start})"
        ) from None


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise typer.BadParameter(f"{what} is not JSON: {reason}") from None


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(
            f"the key {next(name for name in names if names.count(name) > 1)!r} stands there twice"
        )
    return out
