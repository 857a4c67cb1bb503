"""From hostile bytes to plain values with the place of each: one door for JSON and YAML text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from roster.errors import DocumentError, Fault
from roster.passport.limits import FILE, Limits
from roster.passport.words import Path, show_path

Place: TypeAlias = tuple[int, int]
Places: TypeAlias = dict[Path, Place]

_BOMS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a text.

    Attributes:
        value: plain JSON values; equal parts of it may be one object where YAML had an alias.
        places: 1-based line and column of each path.
        remarks: what reads otherwise than its author may think.
    """

    value: Any
    places: Places
    remarks: tuple[Fault, ...] = ()


class ReadError(Exception):
    """A text cannot be read; carries the one fault that stopped it."""

    def __init__(self, message: str, place: Place | None = None, path: Path = ()) -> None:
        line, column = place or (None, None)
        self.fault = Fault(show_path(path), message, line, column)
        super().__init__(message)


def locate(places: Places, path: Path) -> Place | None:
    """Return the place of `path`, or of its nearest ancestor that has one."""
    while path not in places:
        if not path:
            return None
        path = path[:-1]
    return places[path]


def decode(raw: bytes, limits: Limits) -> str:
    """Return the text of UTF-8 bytes, without a leading BOM.

    Raises:
        ReadError: too large, another encoding, or invalid UTF-8.
    """
    if len(raw) > limits.bytes:
        raise ReadError(f"the document is larger than {limits.bytes // 1024} KiB: make it smaller")
    for mark, name in _BOMS:
        if raw.startswith(mark):
            raise ReadError(f"the text is {name}: save it as UTF-8", (1, 1))
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line = before.count(b"\n") + 1
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace")) + 1
        message = f"byte 0x{raw[error.start]:02x} is not UTF-8 ({error.reason}): save the text as UTF-8"
        raise ReadError(message, (line, column)) from None
    return text.removeprefix("\ufeff")


def read(text: str | bytes, *, source: str, limits: Limits = FILE, yaml_1_1: bool = False) -> list[Document]:
    """Read the documents of a text: one when it is JSON, any number when it is YAML.

    Args:
        text: the text; JSON when it begins with `{` and reads as JSON, YAML otherwise.
        source: how errors name it.
        limits: its bounds.
        yaml_1_1: read a plain `1e3` in YAML as PyYAML and its like do, as text.

    Raises:
        DocumentError: with the one fault that stopped the reading.
    """
    try:
        return list(_read(text, limits, yaml_1_1))
    except ReadError as error:
        raise DocumentError(source, [error.fault]) from None


def _read(text: str | bytes, limits: Limits, yaml_1_1: bool) -> list[Document]:
    if isinstance(text, str):
        _refuse_surrogates(text)
        # A character takes at least a byte, so this spares the encoding of what is too large in any case.
        if len(text) > limits.bytes:
            raise ReadError(f"the document is larger than {limits.bytes // 1024} KiB: make it smaller")
        text = text.encode()
    text = decode(text, limits)
    from roster.passport import json_text

    if text.lstrip(" \t\r\n").startswith("{"):
        try:
            return [json_text.read(text, limits)]
        except json_text.NotJsonError as not_json:
            from roster.passport import yaml_text

            try:
                return yaml_text.read(text, limits, yaml_1_1=yaml_1_1)
            except ReadError:
                # Neither: `{"` is how JSON begins, and there the JSON reader's complaint is the useful one.
                if text.lstrip(" \t\r\n")[1:].lstrip(" \t\r\n").startswith('"'):
                    raise not_json.as_read_error() from None
                raise
    from roster.passport import yaml_text

    return yaml_text.read(text, limits, yaml_1_1=yaml_1_1)


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        column = error.start - text.rfind("\n", 0, error.start)
        code = ord(text[error.start])
        message = f"U+{code:04X} is half of a surrogate pair, not a character: remove it"
        raise ReadError(message, (line, column)) from None
