"""Reads Markdown as far as the tests of the documents need it: fenced blocks, headings, links, tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, what stands behind the language, and its text."""

    document: str
    line: int
    language: str
    argument: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


@dataclass(frozen=True)
class Document:
    """A Markdown file."""

    name: str
    text: str

    @classmethod
    def read(cls, name: str) -> Document:
        return cls(name, (ROOT / name).read_text(encoding="utf-8"))

    @property
    def blocks(self) -> list[Block]:
        found = []
        for match in _FENCE.finditer(self.text):
            language, _, argument = match[1].strip().partition(" ")
            line = self.text.count("\n", 0, match.start()) + 1
            found.append(Block(self.name, line, language, argument.strip(), match[2]))
        return found

    @property
    def prose(self) -> str:
        """The text without its fenced blocks."""
        return _FENCE.sub("", self.text)

    @property
    def headings(self) -> list[tuple[int, str]]:
        """Each heading with its level."""
        return [(len(m[1]), m[2]) for m in re.finditer(r"^(#+) (.+)$", self.prose, re.MULTILINE)]

    @property
    def links(self) -> list[str]:
        return _LINK.findall(self.prose)

    @property
    def tables(self) -> list[list[list[str]]]:
        """Each table as rows of cells, the heading first and the line under it left out."""
        found = []
        for match in re.finditer(r"(?:^\|.*\|$\n?)+", self.prose, re.MULTILINE):
            rows = [[cell.strip() for cell in row.strip("|").split(" |")] for row in match[0].splitlines()]
            found.append([rows[0], *rows[2:]])
        return found

    @property
    def anchors(self) -> set[str]:
        """What the headings are called in links, as GitHub names them."""
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for _, heading in self.headings}
