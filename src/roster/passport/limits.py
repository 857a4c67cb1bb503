"""How much a document may hold: each limit is checked before anything is built from it."""

from __future__ import annotations

from dataclasses import dataclass

MAX_FILE_BYTES = 1024 * 1024
MAX_STORED_BYTES = 256 * 1024
# A key stays under YAML's limit of 1024 characters for a simple key even when every character of it is
# escaped once.
MAX_KEY_CHARS = 400
# Python refuses to read or print integers of more than 4300 digits; a double holds 17. 100 serves every
# honest use.
MAX_NUMBER_CHARS = 100


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one text.

    Attributes:
        bytes: size of the text, UTF-8; expanded YAML aliases may not hold more characters than this either.
        depth: maps and lists inside each other.
        nodes: maps, lists, keys and scalars, with every YAML alias counted as what it stands for.
        documents: YAML documents in one file.
    """

    bytes: int = MAX_FILE_BYTES
    depth: int = 32
    nodes: int = 20_000
    documents: int = 100


FILE = Limits()
STORED = Limits(bytes=MAX_STORED_BYTES, documents=1)
