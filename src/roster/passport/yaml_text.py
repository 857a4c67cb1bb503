"""YAML text to plain values: built from the parser's events, so that limits hold before anything exists.

The reader takes YAML 1.2's core schema, narrowed to what JSON can say: `true`/`false`, `null`/`~`, and
numbers written as JSON writes them. Everything else that is plain is text: `no`, `012`, `0x1F`, `1_000`,
`12:30:45`, `2025-12-15`. Keys are text. Tags other than `!!str`, merge keys, duplicate keys and aliases to
themselves are refused.

Source: YAML 1.2.2 chapter 10; the surprises of YAML 1.1 are listed at
https://ruudvanasseldonk.com/2023/01/11/the-yaml-document-from-hell
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import yaml

from roster.errors import Fault
from roster.passport.limits import MAX_NUMBER_CHARS, Limits
from roster.passport.reading import Document, Place, Places, ReadError
from roster.passport.words import Path, escape, quote, show_path

# PyYAML built without libyaml has no C parser; its own one is slower and gives the same events.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
# YAML 1.1 wants a point before an exponent, and a sign in it; PyYAML leaves the text `1e3` without quotes.
NUMBER_1_1 = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+(?:[eE][-+][0-9]+)?)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
}
_STR_TAGS = ("tag:yaml.org,2002:str", "!")


@dataclass(slots=True)
class _Size:
    """What a node weighs when every alias in it is written out."""

    nodes: int = 0
    chars: int = 0
    height: int = 0


@dataclass(slots=True)
class _Frame:
    """A container that is being filled."""

    value: Any
    path: Path
    size: _Size
    anchor: str | None
    place: Place
    key: str | None = None

    def step(self) -> Path:
        return (*self.path, self.key if isinstance(self.value, dict) else len(self.value))  # type: ignore[arg-type]  # a key waits


def read(text: str, limits: Limits, *, yaml_1_1: bool = False) -> list[Document]:
    """Return the documents of YAML text.

    Args:
        text: the text.
        limits: its bounds.
        yaml_1_1: `1e3` is text, as it is to whoever wrote it with PyYAML.

    Raises:
        ReadError: the grammar, a limit, a duplicate key, a tag, a number that JSON has no place for.
    """
    try:
        return list(_Builder(text, limits, NUMBER_1_1 if yaml_1_1 else NUMBER).documents())
    except yaml.reader.ReaderError as error:
        raise _unreadable(text, error) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        parts = [part for part in (error.problem, error.context) if part]
        raise ReadError(
            f"this is not YAML: {escape(', '.join(parts))}", _place(mark) if mark else None
        ) from None
    except yaml.YAMLError as error:
        raise ReadError(f"this is not YAML: {escape(str(error))}") from None


def _place(mark: Any) -> Place:
    return mark.line + 1, mark.column + 1


def _unreadable(text: str, error: yaml.reader.ReaderError) -> ReadError:
    # The C reader counts bytes and the Python one characters, so look for the character itself.
    code = error.character if isinstance(error.character, int) else ord(str(error.character)[:1] or "\0")
    at = text.find(chr(code)) if code < 0x110000 else -1
    place = (text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)) if at >= 0 else None
    return ReadError(
        f"the control character U+{code:04X} may not stand in YAML: remove it, or escape it in quotes", place
    )


class _Builder:
    """One pass over the events of a text."""

    def __init__(self, text: str, limits: Limits, number: re.Pattern[str]) -> None:
        self._text, self._limits, self._number = text, limits, number

    def documents(self) -> list[Document]:
        out: list[Document] = []
        for event in yaml.parse(self._text, Loader=_LOADER):
            match event:
                case yaml.DocumentStartEvent():
                    if len(out) >= self._limits.documents:
                        message = f"more than {self._limits.documents} document(s) in one text: split it"
                        raise ReadError(message, _place(event.start_mark))
                    self._reset()
                case yaml.DocumentEndEvent():
                    out.append(Document(self._root, self._places, tuple(self._remarks)))
                case yaml.MappingStartEvent():
                    self._open({}, event)
                case yaml.SequenceStartEvent():
                    self._open([], event)
                case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                    self._close()
                case yaml.ScalarEvent():
                    self._scalar(event)
                case yaml.AliasEvent():
                    self._alias(event)
                case _:
                    pass  # the ends of the stream
        return out

    def _reset(self) -> None:
        self._root: Any = None
        self._places: Places = {}
        self._remarks: list[Fault] = []
        self._stack: list[_Frame] = []
        self._anchors: dict[str, tuple[Any, _Size] | None] = {}
        self._total = _Size()

    def _here(self) -> Path:
        return self._stack[-1].step() if self._stack else ()

    def _grow(self, size: _Size, place: Place) -> None:
        """Count a node before it is built, also into its container (an anchor may name that)."""
        total, limits = self._total, self._limits
        total.nodes += size.nodes
        total.chars += size.chars
        if total.nodes > limits.nodes:
            raise ReadError(
                f"the document has more than {limits.nodes} nodes, aliases written out: make it smaller",
                place,
            )
        if total.chars > limits.bytes:
            raise ReadError(
                f"the document, aliases written out, is larger than {limits.bytes // 1024} KiB", place
            )
        if len(self._stack) + size.height > limits.depth:
            raise ReadError(f"maps and lists are nested deeper than {limits.depth}: flatten them", place)
        if self._stack:
            _add(self._stack[-1].size, size)

    def _open(self, value: Any, event: Any) -> None:
        place = _place(event.start_mark)
        if event.tag not in (None, "!", f"tag:yaml.org,2002:{'map' if isinstance(value, dict) else 'seq'}"):
            raise _tagged(event, place)
        if self._waits_for_key():
            raise ReadError("a key must be text, not a map or a list", place, self._stack[-1].path)
        size = _Size(1, 0, 1)
        self._grow(size, place)
        path = self._here()
        self._places.setdefault(path, place)
        if event.anchor:
            self._anchors[event.anchor] = None
        self._put(value)
        # The container's own node is counted by the parent above; what comes inside is added as it closes.
        self._stack.append(_Frame(value, path, _Size(1, 0, 1), event.anchor, place))

    def _close(self) -> None:
        frame = self._stack.pop()
        if frame.anchor:
            self._anchors[frame.anchor] = (frame.value, frame.size)
        if self._stack:
            inner = _Size(frame.size.nodes - 1, frame.size.chars, frame.size.height)
            _add(self._stack[-1].size, inner)

    def _waits_for_key(self) -> bool:
        return bool(self._stack) and isinstance(self._stack[-1].value, dict) and self._stack[-1].key is None

    def _put(self, value: Any) -> None:
        if not self._stack:
            self._root = value
            return
        frame = self._stack[-1]
        if isinstance(frame.value, dict):
            frame.value[frame.key] = value
            frame.key = None
        else:
            frame.value.append(value)

    def _scalar(self, event: Any) -> None:
        place = _place(event.start_mark)
        text: str = event.value
        self._grow(_Size(1, len(text), 0), place)
        plain = event.implicit[0] and event.tag is None
        if event.tag is not None and event.tag not in _STR_TAGS:
            raise _tagged(event, place)
        if self._waits_for_key():
            self._key(text, plain, place)
            if event.anchor:
                self._anchors[event.anchor] = (text, _Size(1, len(text), 0))
            return
        path = self._here()
        self._places.setdefault(path, place)
        value = self._resolve(text, place, path) if plain else text
        if event.anchor:
            self._anchors[event.anchor] = (value, _Size(1, len(text), 0))
        self._put(value)

    def _key(self, text: str, plain: bool, place: Place) -> None:
        frame = self._stack[-1]
        if plain and text == "<<":
            raise ReadError("merge keys (<<) are not read: write the fields out", place, frame.path)
        if plain and (text in _WORDS or self._number.fullmatch(text)):
            shown = quote(text) if text else "an empty key"
            raise ReadError(f"a key must be text, and {shown} is not: put it in quotes", place, frame.path)
        if text in frame.value:
            raise ReadError(f"the key {quote(text)} stands here a second time: remove one", place, frame.path)
        frame.key = text
        self._places[(*frame.path, text)] = place

    def _resolve(self, text: str, place: Place, path: Path) -> Any:
        if text in _WORDS:
            return _WORDS[text]
        if not self._number.fullmatch(text):
            if _NOT_FINITE.fullmatch(text):
                raise ReadError(
                    f"{text} is not a JSON number: put it in quotes, or leave it out", place, path
                )
            return text
        if len(text) > MAX_NUMBER_CHARS:
            message = f"a number of {len(text)} characters: at most {MAX_NUMBER_CHARS}, or put it in quotes"
            raise ReadError(message, place, path)
        if INTEGER.fullmatch(text):
            return int(text)
        value = float(text)
        if not math.isfinite(value):
            raise ReadError(
                f"the number {text} is out of range: put it in quotes, or leave it out", place, path
            )
        if text.endswith("0") and "e" not in text.lower() and not text.endswith(".0"):
            message = f"{text} is read as the number {value!r}: put it in quotes if text is meant"
            self._remarks.append(Fault(show_path(path), message, *self._places[path]))
        return value

    def _alias(self, event: Any) -> None:
        place = _place(event.start_mark)
        name = quote(event.anchor)
        if event.anchor not in self._anchors:
            raise ReadError(f"the alias {name} names no anchor before it", place)
        target = self._anchors[event.anchor]
        if target is None:
            raise ReadError(
                f"the alias {name} stands inside what it names: a document cannot hold itself", place
            )
        value, size = target
        self._grow(size, place)
        if self._waits_for_key():
            if not isinstance(value, str):
                raise ReadError("a key must be text", place, self._stack[-1].path)
            self._key(value, False, place)
            return
        self._places.setdefault(self._here(), place)
        self._put(value)


def _add(total: _Size, size: _Size) -> None:
    total.nodes += size.nodes
    total.chars += size.chars
    total.height = max(total.height, size.height + 1)


def _tagged(event: Any, place: Place) -> ReadError:
    return ReadError(f"the tag {quote(event.tag)} is not allowed: remove it", place)
