"""Passports from named files: read within bounds, and checked one by one for the command line."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from roster.errors import DocumentError, Fault
from roster.passport.document import NodePassport
from roster.passport.limits import FILE, MAX_FILE_BYTES
from roster.passport.reading import read
from roster.passport.words import escape


class Findings:
    """What is wrong in one file, said line by line; the reports of passports and of cards are made on it."""

    __slots__ = ()

    source: str
    faults: tuple[Fault, ...]
    warnings: tuple[Fault, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no fault."""
        return not self.faults

    def lines(self) -> list[str]:
        """Return each fault as `file:line:column: path: message`."""
        return DocumentError(escape(self.source), self.faults).lines()

    def warning_lines(self) -> list[str]:
        """Return each warning as `file:line:column: path: message`."""
        return DocumentError(escape(self.source), self.warnings).lines()


@dataclass(frozen=True, slots=True)
class FileReport(Findings):
    """What was found in one file.

    Attributes:
        source: the file's name.
        passports: the good passports in it.
        faults: everything that is wrong; empty when the file is good.
        warnings: what is allowed but probably not meant.
    """

    source: str
    passports: tuple[NodePassport, ...] = ()
    faults: tuple[Fault, ...] = ()
    warnings: tuple[Fault, ...] = ()


def read_file(path: Path, limit: int = MAX_FILE_BYTES) -> bytes:
    """Return a file's bytes; a file of more than `limit` is never read whole.

    Raises:
        DocumentError: it cannot be read, is no file, or is too large.
    """
    source = escape(os.fspath(path))
    try:
        # A FIFO or a device could wait or flow for ever.
        if path.exists() and not path.is_file():
            raise DocumentError(
                source, [Fault("", "this is not a regular file: name a file of YAML or JSON")]
            )
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, DocumentError):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else escape(str(error))
        raise DocumentError(source, [Fault("", f"cannot read the file: {reason}")]) from None
    if len(raw) > limit:
        raise DocumentError(
            source, [Fault("", f"the file is larger than {limit // 1024} KiB: make it smaller")]
        )
    return raw


def validate_files(paths: Iterable[str | os.PathLike[str]]) -> list[FileReport]:
    """Check every document of every file, and report all that is wrong; nothing is raised.

    Two documents with one namespace and name in one file are a fault too: they could not both register.
    """
    return [_validate(os.fspath(path)) for path in paths]


def _validate(source: str) -> FileReport:
    try:
        documents = read(read_file(Path(source)), source=source, limits=FILE)
    except DocumentError as error:
        return FileReport(source, faults=error.faults)
    if not documents:
        return FileReport(source, faults=(Fault("", "expected a passport, found no document"),))
    passports: list[NodePassport] = []
    faults: list[Fault] = []
    warnings: list[Fault] = []
    keys: set[str] = set()
    for document in documents:
        try:
            passport = NodePassport._from_document(document, source)
        except DocumentError as error:
            faults.extend(error.faults)
            continue
        if passport.key in keys:
            line, column = document.places.get(("metadata", "name"), (None, None))
            faults.append(Fault("metadata.name", f"{passport.key} stands in this file twice", line, column))
        keys.add(passport.key)
        passports.append(passport)
        warnings.extend(passport.warnings)
    return FileReport(source, tuple(passports), tuple(faults), tuple(warnings))
