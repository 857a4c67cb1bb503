"""JSON text to plain values: strict where the standard library is lenient, with places and limits."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from roster.passport.limits import MAX_NUMBER_CHARS, Limits
from roster.passport.reading import Document, Place, Places, ReadError
from roster.passport.words import Path, quote

_TOKEN = re.compile(r'[ \t\r\n]+|"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^ \t\r\n"{}\[\]:,]+|"', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")


class NotJsonError(Exception):
    """The text does not follow JSON's grammar (it may be YAML)."""

    def __init__(self, message: str, place: Place) -> None:
        self.message, self.place = message, place
        super().__init__(message)

    def as_read_error(self) -> ReadError:
        """Return it as the fault to show."""
        return ReadError(f"this is not JSON: {self.message}", self.place)


class _SlowPathError(Exception):
    """Something that only a scan with places can name."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise _SlowPathError
    return out


def _refuse(_text: str) -> NoReturn:
    raise _SlowPathError


def _integer(text: str) -> int:
    if len(text) > MAX_NUMBER_CHARS:
        raise _SlowPathError
    return int(text)


def _float(text: str) -> float:
    if len(text) > MAX_NUMBER_CHARS or not math.isfinite(value := float(text)):
        raise _SlowPathError
    return value


_decoder = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_constant=_refuse, parse_int=_integer, parse_float=_float
)


def load_fast(text: str, limits: Limits) -> Any:
    """Return the value of JSON text without places; the fast path for what the store holds.

    The cheap bounds here overcount (commas inside strings), so what passes them is within the limits, and
    what does not is counted exactly by `read`.

    Raises:
        NotJsonError: the grammar.
        ReadError: a limit, a duplicate key, a number that JSON has no place for, a lone surrogate.
    """
    openers = text.count("{") + text.count("[")
    if openers > limits.depth or 2 * text.count(",") + 2 * openers + 2 > limits.nodes:
        _scan(text, limits)
    try:
        value = _decoder.decode(text)
        if "\\ud" in text or "\\uD" in text:
            _refuse_escaped_surrogates(value)
    except json.JSONDecodeError as error:
        raise NotJsonError(error.msg, (error.lineno, error.colno)) from None
    except _SlowPathError:
        _scan(text, limits)
        raise ReadError("a lone half of a surrogate pair in an escape: remove it") from None
    return value


def _refuse_escaped_surrogates(value: Any) -> None:
    if _SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        raise _SlowPathError


def read(text: str, limits: Limits) -> Document:
    """Return JSON text as a document with places.

    Raises:
        NotJsonError: the grammar.
        ReadError: as `load_fast`.
    """
    value = load_fast(text, limits)
    return Document(value, _scan(text, limits))


def _scan(text: str, limits: Limits) -> Places:
    """Walk the tokens once: count, find duplicates and impossible numbers, and note the place of each path.

    It follows well-formed JSON; whatever else it meets it leaves to the decoder's own complaint.
    """
    places: Places = {}
    nodes = 0
    line, start = 1, 0
    # One frame a container: its path, its keys so far (None for a list), the next index, the key that waits
    # for a value.
    stack: list[list[Any]] = []

    def here() -> Path:
        if not stack:
            return ()
        path, keys, index, key = stack[-1]
        return (*path, index if keys is None else key)

    for found in _TOKEN.finditer(text):
        token = found.group()
        first = token[0]
        place = (line, found.start() - start + 1)
        if first in " \t\r\n":
            if newlines := token.count("\n"):
                line += newlines
                start = found.start() + token.rfind("\n") + 1
            continue
        if first in ":":
            continue
        if first == ",":
            if stack:
                stack[-1][2] += 1
                stack[-1][3] = None
            continue
        if first in "}]":
            if stack:
                stack.pop()
            continue
        nodes += 1
        if nodes > limits.nodes:
            raise ReadError(f"the document has more than {limits.nodes} nodes: make it smaller", place)
        frame = stack[-1] if stack else None
        waits_for_key = frame is not None and frame[1] is not None and frame[3] is None
        if waits_for_key and first != '"':
            return places  # not JSON: the decoder stops here too, and says so
        if frame is not None and waits_for_key:
            key = _text(token, place)
            if key in frame[1]:
                raise ReadError(
                    f"the key {quote(key)} stands here a second time: remove one", place, here()[:-1]
                )
            frame[1].add(key)
            frame[3] = key
            places[here()] = place
            continue
        places.setdefault(here(), place)
        if first in "{[":
            if len(stack) >= limits.depth:
                raise ReadError(
                    f"maps and lists are nested deeper than {limits.depth}: flatten them", place, here()
                )
            stack.append([here(), set() if first == "{" else None, 0, None])
        elif first == '"':
            _text(token, place)
        else:
            _check_number(token, place, here())
    return places


def _text(token: str, place: Place) -> str:
    try:
        text: str = json.loads(token)
    except ValueError:
        return token
    if found := _SURROGATE.search(text):
        raise ReadError(
            f"U+{ord(found.group()):04X} is half of a surrogate pair, not a character: remove it", place
        )
    return text


def _check_number(token: str, place: Place, path: Path) -> None:
    if token in ("NaN", "Infinity", "-Infinity"):
        raise ReadError(f"{token} is not a JSON number: use text, or leave it out", place, path)
    if token in ("true", "false", "null"):
        return
    if len(token) > MAX_NUMBER_CHARS:
        raise ReadError(
            f"a number of {len(token)} characters: at most {MAX_NUMBER_CHARS}, or write it as text",
            place,
            path,
        )
    try:
        finite = math.isfinite(float(token))
    except ValueError:
        return
    if not finite:
        raise ReadError(f"the number {token} is out of range: use text, or leave it out", place, path)
