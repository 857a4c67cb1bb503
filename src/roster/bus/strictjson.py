"""JSON as the bus speaks it: UTF-8, finite numbers, whole characters, bounded depth; all else is a `MessageError`."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from roster.errors import MessageError

MAX_DEPTH = 64
_SURROGATE = "the message holds a lone surrogate, which is no character"
_DEEP = f"the message is nested deeper than {MAX_DEPTH} levels"
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:32]} is out of range")
    return value


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_decode = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite).decode


def encode(value: object) -> bytes:
    """Return a value as JSON.

    Raises:
        MessageError: it holds what JSON cannot say, or is nested too deeply.
    """
    try:
        raw = _encode(value).encode()
    except UnicodeEncodeError as error:
        raise MessageError(_SURROGATE) from error
    except RecursionError as error:
        raise MessageError(_DEEP) from error
    except (TypeError, ValueError) as error:  # NaN and infinities, cycles, integers of more than 4 300 digits
        raise MessageError(f"the message holds what JSON cannot say: {error}") from error
    # Counting brackets is far quicker than walking, and says "shallow" for nearly every message.
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _too_deep(value):
        raise MessageError(_DEEP)
    return raw


def decode(raw: bytes | bytearray | memoryview) -> Any:
    """Read JSON.

    Raises:
        MessageError: it is not JSON, or not such as `encode` writes.
    """
    try:
        text = str(raw, "utf-8")
        value = _decode(text)
        if "\\u" in text and _SURROGATE_ESCAPE.search(text):
            _encode(value).encode()  # a pair is one character now; a lone half cannot be encoded
    except UnicodeDecodeError as error:
        raise MessageError("the message is not UTF-8") from error
    except UnicodeEncodeError as error:
        raise MessageError(_SURROGATE) from error
    except RecursionError as error:
        raise MessageError(_DEEP) from error
    except ValueError as error:
        raise MessageError(f"the message is not JSON: {error}") from error
    if text.count("{") + text.count("[") > MAX_DEPTH and _too_deep(value):
        raise MessageError(_DEEP)
    return value


def _too_deep(value: object) -> bool:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for container in level:
            items = container.values() if isinstance(container, dict) else container
            inner += [item for item in items if isinstance(item, (dict, list, tuple))]
        if not inner:
            return False
        level = inner
    return True
