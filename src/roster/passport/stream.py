"""Passports from a long stream of documents: read one after the other, each within bounds, with every fault named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from roster.errors import DocumentError, Fault
from roster.passport.document import NodePassport
from roster.passport.files import FileReport
from roster.passport.limits import FILE, Limits
from roster.passport.reading import Document, Places, read

MAX_PASSPORTS = 100_000
# A file of rubbish is told of, not retold.
MAX_FAULTS = 1000
# A `kind: List` is one document, however many passports it holds; two levels of its own lie above theirs.
_LIST = Limits(bytes=16 * FILE.bytes, depth=FILE.depth + 2, nodes=16 * FILE.nodes, documents=1)
# In column 0 three dashes begin a document, whatever stands around them: https://yaml.org/spec/1.2.2/#rule-c-forbidden
_MARK = re.compile(rb"---(?:[ \t\r\n]|\Z)")


def read_stream(file: BinaryIO, source: str) -> FileReport:
    """Check every passport of a stream of YAML documents, or of `kind: List` documents; nothing is raised for what is wrong.

    Args:
        file: read to its end, never whole.
        source: how faults name it.

    Example:
        with open("backup.yaml", "rb") as file:
            report = read_stream(file, "backup.yaml")
    """
    passports: dict[str, NodePassport] = {}
    faults: list[Fault] = []
    warnings: list[Fault] = []
    try:
        for document in _documents(file, source, faults):
            try:
                passport = NodePassport._from_document(document, source)
            except DocumentError as error:
                faults.extend(error.faults)
            else:
                if passport.key in passports:
                    line, column = document.places.get(("metadata", "name"), (None, None))
                    message = f"{passport.key} stands in this file twice: remove one"
                    faults.append(Fault("metadata.name", message, line, column))
                passports[passport.key] = passport
                warnings.extend(passport.warnings)
            if len(passports) > MAX_PASSPORTS:
                faults.append(Fault("", f"more than {MAX_PASSPORTS} passports: split the file"))
                break
            if len(faults) > MAX_FAULTS:
                del faults[MAX_FAULTS:]
                faults.append(Fault("", f"more than {MAX_FAULTS} faults: the rest of the file was not read"))
                break
    except DocumentError as error:
        faults.extend(error.faults)
    if not passports and not faults:
        faults.append(Fault("", "expected passports, found no document"))
    return FileReport(source, tuple(passports.values()), tuple(faults), tuple(warnings))


def _documents(file: BinaryIO, source: str, faults: list[Fault]) -> Iterator[Document]:
    """Yield the documents that stand for themselves, and the items of lists; the faults of others go into `faults`."""
    for first, text in _pieces(file, source):
        try:
            read_there = read(text, source=source, limits=_LIST)
        except DocumentError as error:
            faults.extend(
                Fault(fault.path, fault.message, fault.line and fault.line + first, fault.column)
                for fault in error.faults
            )
            continue
        for document in read_there:
            if document.value is None:
                continue  # nothing but comments
            remarks = tuple(
                Fault(fault.path, fault.message, fault.line and fault.line + first, fault.column)
                for fault in document.remarks
            )
            places = {path: (line + first, column) for path, (line, column) in document.places.items()}
            moved = Document(document.value, places, remarks)
            if isinstance(document.value, dict) and document.value.get("kind") == "List":
                yield from _items(moved, faults)
            elif len(text) > FILE.bytes:
                faults.append(
                    Fault(
                        "",
                        f"the document is larger than {FILE.bytes // 1024} KiB",
                        *places.get((), (None, None)),
                    )
                )
            else:
                yield moved


def _items(document: Document, faults: list[Fault]) -> Iterator[Document]:
    items = document.value.get("items")
    if not isinstance(items, list):
        faults.append(Fault("items", "expected a list of passports", *document.places.get((), (None, None))))
        return
    places: list[Places] = [{} for _ in items]
    for path, place in document.places.items():
        if len(path) >= 2 and path[0] == "items" and isinstance(path[1], int):
            places[path[1]][path[2:]] = place
    for item, there in zip(items, places, strict=True):
        yield Document(item, there)


def _pieces(file: BinaryIO, source: str) -> Iterator[tuple[int, bytes]]:
    """Cut a stream where its documents begin; yield the lines before each, and its text.

    Raises:
        DocumentError: a document is over the limit: what follows it cannot be told from it.
    """
    before, number, size = 0, 0, 0
    lines: list[bytes] = []
    while line := file.readline(_LIST.bytes + 1):
        if _MARK.match(line) and lines:
            yield before, b"".join(lines)
            before, size, lines = number, 0, []
        lines.append(line)
        number += 1
        size += len(line)
        if size > _LIST.bytes:
            message = f"the document that begins here is larger than {_LIST.bytes // 1024} KiB: split it"
            raise DocumentError(source, [Fault("", message, before + 1, 1)])
    if lines:
        yield before, b"".join(lines)
