"""The requests and replies of ZooKeeper's protocol that we use, over kazoo's, with types."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from kazoo import exceptions
from kazoo.protocol import serialization
from kazoo.security import ACL, Id, Permissions

# What kazoo's errors mean to us.
Absent: type[Exception] = exceptions.NoNodeError
Denied: tuple[type[Exception], ...] = (exceptions.NoAuthError, exceptions.AuthFailedError)
Ended: type[Exception] = exceptions.SessionExpiredError
Lost: type[Exception] = exceptions.ConnectionLoss
Unknown: type[Exception] = exceptions.UnimplementedError
# A znode under a lease has no children.
Barren: type[Exception] = exceptions.NoChildrenForEphemeralsError
# A znode is not as it was seen.
Overtaken: tuple[type[Exception], ...] = (
    exceptions.BadVersionError,
    exceptions.NoNodeError,
    exceptions.NodeExistsError,
    exceptions.NotEmptyError,
)
# What is left to those who ask: they know what to do about it.
Expected: tuple[type[Exception], ...] = (*Overtaken, Barren)
# In a transaction: the steps before the one that failed, and those behind it.
_NEIGHBOURS = (exceptions.RolledBackError, exceptions.RuntimeInconsistency)

_EPHEMERAL = 1
_RECURSIVE = 1
_ANY_WATCHER = 3
_GET_DATA = 4
_PART = struct.Struct("!i?i")  # of a request or reply in many parts: kind, whether it is the end, error
# Reads in one request: what it brings is at most so many values.
_TOGETHER = 32
_READ_WRITE = Permissions.READ | Permissions.WRITE
_WORLD = Id("world", "anyone")
_OPEN = [ACL(Permissions.ALL, _WORLD)]
_OURS = [ACL(Permissions.ALL, Id("auth", "")), ACL(Permissions.READ, _WORLD)]
# Whoever may create a key in a directory counts it there, also in one that somebody else has made.
_SHARED = [ACL(Permissions.ALL, Id("auth", "")), ACL(_READ_WRITE, _WORLD)]


class Stat(NamedTuple):
    """What ZooKeeper knows of a znode: zxids of creation and last write, times in ms, counts of changes, owner's session.

    Source: https://zookeeper.apache.org/doc/current/zookeeperProgrammers.html#sc_zkStatStructure
    """

    czxid: int
    mzxid: int
    ctime: int
    mtime: int
    version: int
    cversion: int
    aversion: int
    owner: int
    length: int
    children: int
    pzxid: int


class Create(NamedTuple):
    """Make a znode; `shared`: whoever may read it may write it."""

    path: str
    data: bytes = b""
    ephemeral: bool = False
    shared: bool = False


class Set(NamedTuple):
    """Write a znode that is at this version; -1: at any."""

    path: str
    data: bytes
    version: int


class Remove(NamedTuple):
    """Delete a znode that is at this version."""

    path: str
    version: int


class Verify(NamedTuple):
    """Have the transaction fail unless the znode is at this version."""

    path: str
    version: int


Step = Create | Set | Remove | Verify


class _AddWatch(NamedTuple):
    path: str
    type: int = 106

    def serialize(self) -> bytes:
        return bytes(serialization.write_string(self.path)) + struct.pack("!i", _RECURSIVE)

    def deserialize(self, _buffer: bytes, _offset: int) -> bool:
        return True


class _RemoveWatches(NamedTuple):
    path: str
    type: int = 18

    def serialize(self) -> bytes:
        return bytes(serialization.write_string(self.path)) + struct.pack("!i", _ANY_WATCHER)

    def deserialize(self, _buffer: bytes, _offset: int) -> bool:
        return True


class _ReadAll(NamedTuple):
    """Many reads in one request; kazoo has none."""

    paths: Sequence[str]
    type: int = 22

    def serialize(self) -> bytes:
        parts = [
            _PART.pack(_GET_DATA, 0, -1) + serialization.write_string(path) + b"\0" for path in self.paths
        ]
        return b"".join(parts) + _PART.pack(-1, 1, -1)

    def deserialize(self, buffer: bytes, offset: int) -> list[Any]:
        found: list[Any] = []
        while True:
            kind, done, _ = _PART.unpack_from(buffer, offset)
            offset += _PART.size
            if done:
                return found
            if kind == _GET_DATA:
                data, offset = serialization.read_buffer(buffer, offset)
                found.append((data, serialization.stat_struct.unpack_from(buffer, offset)))
                offset += serialization.stat_struct.size
            else:
                (code,) = struct.unpack_from("!i", buffer, offset)
                offset += 4
                found.append(exceptions.EXCEPTIONS[code]())


class Request(NamedTuple):
    """One request, made by the functions below; `what` says in a few words what it asks."""

    what: str
    packet: Any


def exists(path: str) -> Request:
    """Ask for a znode's `Stat`; None if it is absent."""
    return Request("look for a znode", serialization.Exists(path, None))


def get(path: str) -> Request:
    """Ask for a znode's data and `Stat`, a pair."""
    return Request("read a znode", serialization.GetData(path, None))


def get_all(paths: Sequence[str]) -> list[Request]:
    """Ask for data and `Stat` of many znodes (ZooKeeper 3.6); `nodes_of` has the answers."""
    return [
        Request("read znodes", _ReadAll(paths[first : first + _TOGETHER]))
        for first in range(0, len(paths), _TOGETHER)
    ]


def nodes_of(replies: Sequence[Reply]) -> list[tuple[bytes, Stat] | None]:
    """Return the answers to `get_all`, None for an absent znode."""
    return [
        None if isinstance(each, Exception) else (each[0] or b"", Stat._make(each[1]))
        for reply in replies
        for each in reply.value
    ]


def children(path: str) -> Request:
    """Ask for the names of a znode's children."""
    return Request("list a znode's children", serialization.GetChildren(path, None))


def sync() -> Request:
    """Have what is asked next on this connection see whatever anybody has written before."""
    return Request("catch up with the leader", serialization.Sync("/"))


def add_watch(path: str) -> Request:
    """Have changes at and below a path told, until the connection ends."""
    return Request("watch a znode", _AddWatch(path))


def remove_watch(path: str) -> Request:
    """Have them told no more."""
    return Request("end the watch of a znode", _RemoveWatches(path))


def transaction(steps: Sequence[Step], *, protected: bool) -> Request:
    """Ask for all steps or none.

    Args:
        protected: what is made belongs to those whose credentials this connection has shown; others may read.
    """
    return Request(
        "write a transaction", serialization.Transaction([_step(step, protected) for step in steps])
    )


def _step(step: Step, protected: bool) -> Any:
    match step:
        case Create(path, data, ephemeral, shared):
            acl = _OPEN if not protected else _SHARED if shared else _OURS
            return serialization.Create(path, data, acl, _EPHEMERAL if ephemeral else 0)
        case Set(path, data, version):
            return serialization.SetData(path, data, version)
        case Remove(path, version):
            return serialization.Delete(path, version)
        case Verify(path, version):
            return serialization.CheckVersion(path, version)


class Reply:
    """What became of one request.

    Attributes:
        value: what was asked for.
        error: kazoo's exception, or None.
        zxid: the newest transaction that the server had applied when it answered; 0 if it did not.
    """

    __slots__ = ("_heard", "_post", "error", "value", "zxid")

    def __init__(self, post: Callable[..., None], heard: Callable[[Reply], None]) -> None:
        self._post = post
        self._heard: Callable[[Reply], None] | None = heard
        self.value: Any = None
        self.error: Exception | None = None
        self.zxid = 0

    # What kazoo calls, on its thread; a request that it could not even send fails twice.

    def set(self, value: Any = None) -> None:
        self.value = value
        self._tell()

    def set_exception(self, error: Exception) -> None:
        self.error = error
        self._tell()

    def _tell(self) -> None:
        if self._heard is not None:
            self._post(self._heard, self)
            self._heard = None

    # What it holds, typed.

    def stat(self) -> Stat | None:
        """Return the answer to `exists`."""
        return None if self.value is None else Stat._make(self.value)

    def node(self) -> tuple[bytes, Stat]:
        """Return the answer to `get`."""
        data, stat = self.value
        return data or b"", Stat._make(stat)

    def names(self) -> list[str]:
        """Return the answer to `children`."""
        return list(self.value)

    def failure(self) -> Exception | None:
        """Return what it failed of; of a request in many parts what tells most."""
        parts = self.value if isinstance(self.value, list) else ()
        failed = [each for each in (self.error, *parts) if isinstance(each, Exception)]
        return min(failed, key=_telling, default=None)


def _telling(error: Exception) -> int:
    return 2 if isinstance(error, _NEIGHBOURS) else 1 if isinstance(error, Absent) else 0
