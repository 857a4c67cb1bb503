"""Who may do what: the token file, read again whenever it changes."""

from __future__ import annotations

import fnmatch
import hashlib
import logging
import os
import re
import secrets
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from roster.errors import ConfigError, DocumentError, Fault
from roster.passport.fields import is_dns_label
from roster.passport.limits import Limits
from roster.passport.reading import Document, locate, read
from roster.passport.words import show_path

logger = logging.getLogger("roster.gateway")

Role = Literal["reader", "operator", "node"]

_LIMITS = Limits(bytes=1024 * 1024, depth=6, nodes=100_000, documents=1)
_FIELDS = frozenset({"name", "role", "sha256", "expires", "node", "capabilities", "calls"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@/-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Principal:
    """Whom a token stands for.

    Attributes:
        name: what logs call it.
        role: `reader`, `operator` or `node`.
        digest: SHA-256 of the token, in hexadecimal; empty for whoever comes to a gateway without tokens.
        node: `namespace/name` that a node's token is for.
        capabilities: patterns of what that node may declare.
        calls: whether that node may call.
        expires: seconds since the epoch, None for never.
    """

    name: str
    role: Role
    digest: str = ""
    node: str = ""
    capabilities: tuple[str, ...] = ()
    calls: bool = False
    expires: float | None = None

    def may_declare(self, capability: str) -> bool:
        """Return whether a node of this token may offer a capability."""
        return self.role == "operator" or any(
            fnmatch.fnmatchcase(capability, one) for one in self.capabilities
        )

    def expired(self, now: float) -> bool:
        """Return whether it is over, by the wall clock: that is what a date in a file is meant by."""
        return self.expires is not None and now >= self.expires


ANYBODY = Principal("anybody", "operator")
"""Whoever comes to a gateway without tokens: it listens for its own machine alone."""


class Tokens:
    """The tokens in force.

    Args:
        path: the file.

    Raises:
        ConfigError: it cannot be read, or is not as docs/gateway.md says.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mark = self._look()
        self._known = self._read()
        self._reported = ""

    def find(self, token: str) -> Principal | None:
        """Return whose token this is, None if nobody's. It may be expired."""
        return self.of_digest(hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest())

    def of_digest(self, digest: str) -> Principal | None:
        """Return whose token has this digest, None if nobody's."""
        found = self._known.get(digest)
        # The dictionary compares digests, which say nothing about a token that is near; this one is for certain.
        return found if found is not None and secrets.compare_digest(found.digest, digest) else None

    def refresh(self) -> None:
        """Read the file again if it has changed. One that has become wrong is reported, and the last good one holds."""
        try:
            mark = self._look()
            if mark == self._mark:
                return
            known = self._read()
        except ConfigError as error:
            if str(error) != self._reported:
                self._reported = str(error)
                logger.error("the tokens stay as they were: %s", error)
            return
        self._mark, self._known, self._reported = mark, known, ""
        logger.info("the token file was read again: %d tokens", len(known))

    def _look(self) -> tuple[int, int, int, int]:
        try:
            found = self._path.stat()  # through links: a mounted secret is one
        except OSError as error:
            raise ConfigError(
                f"the token file {self._path} cannot be read: {error.strerror or error}; see docs/gateway.md"
            ) from None
        return found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode

    def _read(self) -> dict[str, Principal]:
        try:
            with self._path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                raw = file.read(_LIMITS.bytes + 1)
        except OSError as error:
            raise ConfigError(
                f"the token file {self._path} cannot be read: {error.strerror or error}; see docs/gateway.md"
            ) from None
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ConfigError(
                f"the token file {self._path} can be written by others than its owner, who could let themselves in: "
                f"chmod go-w {self._path}"
            )
        try:
            return read_tokens(raw, str(self._path))
        except DocumentError as error:
            raise ConfigError(f"the token file is wrong: {'; '.join(error.lines()[:10])}") from None


def read_tokens(raw: bytes, source: str) -> dict[str, Principal]:
    """Return the tokens of a file by their digests.

    Raises:
        DocumentError: lists every fault with its place.
    """
    documents = read(raw, source=source, limits=_LIMITS)
    document = documents[0] if documents else Document(None, {})
    faults: list[Fault] = []

    def fault(path: tuple[str | int, ...], message: str) -> None:
        line, column = locate(document.places, path) or (None, None)
        faults.append(Fault(show_path(path), message, line, column))

    known: dict[str, Principal] = {}
    names: set[str] = set()
    found = document.value.get("tokens") if isinstance(document.value, dict) else None
    if not isinstance(found, list) or set(document.value) != {"tokens"}:
        fault((), "expected the one field `tokens`, a list")
        found = []
    for number, item in enumerate(found):
        principal = _principal(item, ("tokens", number), fault)
        if principal is None:
            continue
        if principal.name in names:
            fault(("tokens", number, "name"), f"there is another token of the name {principal.name}")
        if principal.digest in known:
            fault(("tokens", number, "sha256"), "there is another line for the same token")
        names.add(principal.name)
        known[principal.digest] = principal
    if faults:
        raise DocumentError(source, faults)
    return known


def _principal(item: Any, path: tuple[str | int, ...], fault: Any) -> Principal | None:
    """Read one line of the file; its faults are reported, and none of them repeats what it holds: that may be a token."""
    if not isinstance(item, dict):
        fault(path, "expected a token: name, role and sha256")
        return None
    wrong = False

    def need(field: str, holds: bool, expected: str) -> None:
        nonlocal wrong
        if not holds:
            wrong = True
            fault((*path, field), f"expected {expected}")

    for field in item.keys() - _FIELDS:
        if field == "token":
            need(field, False, "sha256 in its place: the file does not hold the token itself")
        else:
            need(str(field)[:60], False, f"one of {', '.join(sorted(_FIELDS))}")
    name: Any = item.get("name")
    role: Any = item.get("role")
    digest: Any = item.get("sha256")
    need(
        "name",
        isinstance(name, str) and _NAME.fullmatch(name) is not None,
        "a name of letters, digits and ._@/-",
    )
    need("role", role in get_args(Role), "reader, operator or node")
    need(
        "sha256",
        isinstance(digest, str) and _SHA256.fullmatch(digest) is not None,
        "64 digits 0-9a-f in quotes, the token's SHA-256",
    )
    expires = item.get("expires")
    moment = _moment(expires) if expires is not None else None
    need("expires", expires is None or moment is not None, "a time such as 2027-01-01T00:00:00Z")
    node, capabilities, calls = item.get("node"), item.get("capabilities", []), item.get("calls", False)
    if role == "node":
        space, _, last = node.partition("/") if isinstance(node, str) else ("", "", "")
        need("node", is_dns_label(space) and is_dns_label(last), "NAMESPACE/NAME of the one node")
        fits = isinstance(capabilities, list) and all(isinstance(one, str) and one for one in capabilities)
        need("capabilities", fits, "a list of names or patterns such as translate_*")
        need("calls", isinstance(calls, bool), "true or false")
    else:
        for field in ("node", "capabilities", "calls"):
            need(field, field not in item, "role: node beside it, or nothing")
    if wrong:
        return None
    return Principal(
        str(name),
        role,
        digest,
        node=node or "",
        capabilities=tuple(capabilities),
        calls=calls,
        expires=moment,
    )


def _moment(text: Any) -> float | None:
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
