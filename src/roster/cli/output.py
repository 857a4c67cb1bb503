"""Everything that the command line says goes through here, and is made safe here."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, TextIO

from roster._logs import json_line
from roster._text import safe
from roster.cli.encode import to_json, to_yaml
from roster.cli.table import Column, Table


class Listing(StrEnum):
    """How a list is printed."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


class Data(StrEnum):
    """How one value is printed."""

    JSON = "json"
    YAML = "yaml"


class Output:
    """Prints results to stdout, everything else to stderr.

    Attributes:
        structured: whether what goes to stderr is JSON, one object a line, as the log is (`--log-format json`).
        colour: whether colours are wanted at all (`--no-color`, `NO_COLOR`); they are used on a terminal only.
    """

    def __init__(self) -> None:
        # https://no-color.org: any value that is not empty
        self.structured = False
        self.colour = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    # -- results --------------------------------------------------------------------------------------------------

    def line(self, text: str) -> None:
        """Print one line."""
        self._write([safe(text)])

    def marked_line(self, mark: str, style: str, text: str) -> None:
        """Print one line that begins with a word in a colour."""
        painted = f"\x1b[{style}m{mark}\x1b[0m" if self.colour and sys.stdout.isatty() else mark
        self._write([painted + safe(text)])

    def lines(self, texts: Iterable[str]) -> None:
        """Print several lines."""
        self._write(safe(text) for text in texts)

    def text(self, text: str) -> None:
        """Print a text with its own line breaks: exactly as it is into a pipe or file, made safe on a terminal."""
        if sys.stdout.isatty():
            self._write("\t".join(safe(part) for part in line.split("\t")) for line in text.split("\n"))
        else:
            self._write([text])

    def json(self, value: Any, *, compact: bool = False) -> None:
        """Print a value as JSON; `compact` is one line."""
        self._write([to_json(value, indent=None if compact else 2)])

    def yaml(self, value: Any) -> None:
        """Print a value as YAML."""
        self._write([to_yaml(value).rstrip("\n")])

    def data(self, value: Any, form: str) -> None:
        """Print a value as `json` or `yaml`."""
        if form == Data.YAML:
            self.yaml(value)
        else:
            self.json(value)

    def table(
        self, columns: Sequence[Column], rows: Sequence[Sequence[str]], *, header: bool = True
    ) -> Table:
        """Print a table; return it, for rows that come later."""
        terminal = sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if terminal else None
        table = Table(columns, rows, width=width, colour=terminal and self.colour)
        self._write([*([table.header()] if header else []), *table.lines()])
        return table

    def row(self, table: Table, row: Sequence[str]) -> None:
        """Print one more row of a table."""
        self._write([table.line(row)])

    # -- the rest -------------------------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """Say something beside the result."""
        self._aside("info", safe(text), text)

    def warning(self, text: str) -> None:
        """Say that something is not as it should be."""
        self._aside("warning", self._painted("warning:", "33") + " " + safe(text), text)

    def error(self, text: str) -> None:
        """Say in one line why it failed and what to do."""
        self._aside("error", self._painted("error:", "31") + " " + safe(text), text)

    def progress(self, text: str) -> None:
        """Say what is being done, in a line of a terminal that the next one overwrites; an empty text removes it."""
        if sys.stderr.isatty() and not self.structured:
            sys.stderr.write(f"\r\x1b[K{f'{safe(text)} ...' if text else ''}")
            sys.stderr.flush()

    def _aside(self, level: str, line: str, text: str) -> None:
        self._write([json_line(level, "roster.cli", text) if self.structured else line], sys.stderr)

    def _painted(self, word: str, style: str) -> str:
        return f"\x1b[{style}m{word}\x1b[0m" if self.colour and sys.stderr.isatty() else word

    @staticmethod
    def _write(lines: Iterable[str], stream: TextIO | None = None) -> None:
        """Write lines that are safe already, and flush: whoever reads a pipe should not wait for a buffer to fill."""
        stream = stream or sys.stdout
        text = "".join(f"{line}\n" for line in lines)
        if text:
            stream.write(text)
            stream.flush()
