"""Consul's KV store as entries of ours: names in URLs, listings decoded, reads that never lie."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import uuid
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from roster._clock import boottime
from roster.errors import LimitError, StoreUnavailableError
from roster.store.base import Entry
from roster.store.consul.wire import Answer, Wire, denied, unreadable

# What Consul's router takes in a path as it is; it refuses what cannot be printed, and cleans "//", "/./" and "/../" away.
_PRINTABLE = re.compile(r"[\x20-\x7e]*")
_GAP = re.compile(r"[ \t\r\n,]*")
# Decoding less than this takes less time than handing it to a thread.
SMALL_ANSWER = 256 * 1024
# After 15 minutes Consul forgets what it deleted, and the index of a prefix falls back to that of what is there.
FORGETS = 300.0
_READ = "key_prefix read"

Step = dict[str, str | int]
"""One operation of a transaction."""


@dataclass(frozen=True, slots=True)
class Look:
    """All entries under a prefix at one moment.

    Attributes:
        entries: in key order.
        index: the prefix's index at that moment.
    """

    entries: tuple[Entry, ...]
    index: int


def name_of(key: str) -> str:
    """Return Consul's name of a key: there names have no leading slash.

    Raises:
        LimitError: Consul cannot have it.
    """
    if key == "/":
        raise LimitError("Consul has no key '/': add a name")
    return key[1:]


def plain_part(name: str) -> str:
    """Return as much of the beginning of a name as can stand in a URL.

    Example:
        >>> plain_part("a/../b"), plain_part("a/b\x1b"), plain_part("a/b/")
        ('a/', 'a/b', 'a/b/')
    """
    found = _PRINTABLE.match(name)
    text = found.group() if found else ""
    start = 0
    while True:
        segment, slash, _ = text[start:].partition("/")
        if segment in (".", "..") or (slash and not segment):
            return text[:start]
        if not slash:
            return text
        start += len(segment) + 1


def pack(steps: Sequence[Step]) -> bytes:
    """Return the body of a transaction. Keys travel in it as JSON: it can name those that no URL can."""
    return json.dumps([{"KV": step} for step in steps]).encode()


async def transact(
    wire: Wire, where: str, steps: Sequence[Step], what: str, *, reading: bool = False
) -> tuple[list[Any], dict[int, str]]:
    """Send a transaction; return the entries that it met, or else what Consul says of each step that failed."""
    answer = await wire.ask(
        "PUT",
        "/v1/txn",
        {"consistent": ""},  # a transaction that only reads or checks is a read
        body=pack(steps),
        again=reading,
        expect=(200, 409),
        what=what,
    )
    said = answer.json()
    try:
        if answer.status == 200:
            return [one["KV"] for one in said["Results"] or ()], {}
        errors = {int(one["OpIndex"]): str(one["What"]) for one in said["Errors"]}
    except (KeyError, TypeError, ValueError) as error:
        raise unreadable(where) from error
    if not errors or not all(0 <= number < len(steps) for number in errors):
        raise unreadable(where)
    return [], errors


class Kv:
    """Reads of the KV store, all of them consistent.

    Only consistent reads tell the truth always: after a restart, others were seen not to find existing keys for 0.4 s.

    Args:
        wire: where to ask.
        where: the URL without secrets, for errors.
        home: the prefix that the token surely may list; keys of other people need not be ours to see.
    """

    def __init__(self, wire: Wire, where: str, home: str) -> None:
        self._wire = wire
        self._where = where
        # Nobody has this key: what Consul tells of it is the index of the whole store, at no cost.
        self._nobody = uuid.uuid4().hex
        self._nowhere = quote(home + self._nobody)
        self._marks: deque[tuple[float, int]] = deque()

    async def read(self, keys: Iterable[str]) -> dict[str, Entry | None]:
        """Return several entries as they are at one moment.

        Raises:
            StoreDeniedError: there is one that the token may not read.
        """
        found: dict[str, Entry | None] = dict.fromkeys(keys)
        wanted = list(found)
        while wanted:
            steps: list[Step] = [{"Verb": "get", "Key": name_of(key)} for key in wanted]
            results, errors = await transact(self._wire, self._where, steps, _READ, reading=True)
            if errors:
                # One that is absent fails the whole transaction: ask again for the others.
                wanted = [key for number, key in enumerate(wanted) if number not in errors]
                continue
            if len(results) != len(wanted):  # Consul leaves out what the token may not read
                raise denied(self._where, "", _READ)
            found.update(zip(wanted, (entry_of(one, self._where) for one in results), strict=True))
            break
        return found

    async def get(self, key: str) -> Entry | None:
        """Return one entry, or None."""
        return (await self.read([key]))[key]

    async def index(self, prefix: str, *, after: int = 0, wait: float = 0.0) -> int:
        """Return the index of a prefix, cheaply: it rises with each change under it.

        Args:
            prefix: of keys of ours.
            after: with `wait`: wait until it is higher than this.
            wait: at most so many seconds.
        """
        query: dict[str, str | int] = {"keys": "", "separator": "/", "consistent": ""}
        if wait:
            query |= {"index": after, "wait": f"{wait:g}s"}
        path = f"/v1/kv/{quote(plain_part(prefix[1:]))}"
        # Consul adds up to a sixteenth to a wait, so that not all come back at once.
        answer = await self._wire.ask(
            "GET", path, query, blocks=wait * 17 / 16, expect=(200, 404), what=_READ
        )
        return self._index_of(answer)

    async def store_index(self) -> int:
        """Return the index of the whole store: it rises with each change of any key."""
        answer = await self._wire.ask(
            "GET", f"/v1/kv/{self._nowhere}", {"keys": "", "consistent": ""}, expect=(200, 404), what=_READ
        )
        index = self._index_of(answer)
        now = boottime()
        while self._marks and self._marks[0][0] < now - FORGETS:
            self._marks.popleft()
        if not self._marks or self._marks[-1][0] < now - FORGETS / 10:
            self._marks.append((now, index))
        return index

    def recent(self, revision: int) -> bool:
        """Return whether a revision is surely younger than `FORGETS`."""
        marks = (index for moment, index in self._marks if moment >= boottime() - FORGETS)
        return revision >= next(marks, revision + 1)

    async def look(self, prefix: str) -> Look:
        """Return all entries under a prefix.

        Raises:
            StoreDeniedError: the token may not see them. (Consul itself shows such a token an empty store.)
        """
        part = plain_part(prefix[1:])
        answer = await self._wire.ask(
            "GET", f"/v1/kv/{quote(part)}", {"recurse": "", "consistent": ""}, expect=(200, 404), what=_READ
        )
        index = self._index_of(answer)
        if answer.status == 404:
            # To a token that may not look Consul shows an empty store; of a single key it says so.
            await self._wire.ask(
                "GET",
                f"/v1/kv/{quote(part)}{self._nobody}",
                {"consistent": ""},
                expect=(200, 404),
                what=_READ,
            )
            return Look((), index)
        if len(answer.body) < SMALL_ANSWER:
            entries = decode(answer.body, self._where)
        else:
            entries = await asyncio.to_thread(decode, answer.body, self._where)
        if "/" + part != prefix:
            entries = [entry for entry in entries if entry.key.startswith(prefix)]
        return Look(tuple(entries), index)

    def _index_of(self, answer: Answer) -> int:
        if answer.index is None:
            raise StoreUnavailableError(
                f"{self._where}: Consul answered without its index: it is choosing a leader"
            )
        return answer.index


def decode(body: bytes, where: str) -> list[Entry]:
    """Return the entries of a listing, in key order.

    They are decoded one by one: from a thread, a single call for all of them would hold the interpreter, and thus the
    event loop, for a tenth of a second at 10 000 nodes.

    Raises:
        StoreUnavailableError: this is no listing.
    """
    decoder = json.JSONDecoder()
    entries: list[Entry] = []
    try:
        text = body.decode().strip()
        if text[:1] != "[":
            raise unreadable(where)
        at = _past_gap(text, 1)
        while text[at : at + 1] not in ("]", ""):
            found, at = decoder.raw_decode(text, at)
            entries.append(entry_of(found, where))
            at = _past_gap(text, at)
    except (ValueError, RecursionError) as error:
        raise unreadable(where) from error
    return entries


def _past_gap(text: str, at: int) -> int:
    # A development agent indents its answers.
    gap = _GAP.match(text, at)
    return gap.end() if gap else at


def entry_of(found: Any, where: str) -> Entry:
    """Return an entry as Consul writes it.

    Raises:
        StoreUnavailableError: this is none.
    """
    if isinstance(found, dict):
        key, value, session = found.get("Key"), found.get("Value"), found.get("Session")
        created, changed = found.get("CreateIndex"), found.get("ModifyIndex")
        if isinstance(key, str) and isinstance(created, int) and isinstance(changed, int):
            try:
                raw = base64.b64decode(value) if isinstance(value, str) else b""
            except ValueError as error:
                raise unreadable(where) from error
            return Entry(
                "/" + key, raw, created, changed, session if isinstance(session, str) and session else None
            )
    raise unreadable(where)
