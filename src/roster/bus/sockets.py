"""The files of the local bus: one socket and one lock a queue, in a directory that is this user's alone.

Beside each socket `X.sock` lies `X.lock`. Its flock is the proof that the owner lives: the kernel lets go of
it at the instant of the owner's death, so a socket whose lock is free is stale. The lock file also tells, as
JSON, which queue it is and which patterns it listens to, so that a publisher connects to those alone whom it
concerns.

Files are named by hash: a queue's name may hold anything, and a socket's path has 108 bytes (unix(7)).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import socket
import stat
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from roster._paths import ensure_private_dir
from roster.bus.topics import matches_any
from roster.errors import BusUnavailableError, ConfigError

log = logging.getLogger("roster.bus")

MAX_PATH_BYTES = 103 if sys.platform == "darwin" else 107
BACKLOG = 512
_NAME_BYTES = 33 + len(".12345678.tmp")  # the longest name of a file in the directory
_MAX_DECLARATION = 256 * 1024
_UNSETTLED_NS = 100_000_000
_MAX_KEYS = 1024


@lru_cache(maxsize=4096)
def queue_stem(queue: str) -> str:
    """Return the name, without its ending, of the files of a queue."""
    return "q" + hashlib.sha256(queue.encode()).hexdigest()[:32]


def subscriber_stem() -> str:
    """Return a new name, without its ending, for the files of a subscription."""
    return "s" + os.urandom(16).hex()


def prepare_directory(directory: Path) -> Path:
    """Make the bus directory private, and return the one whose path is short enough for sockets.

    Where the path is too long the sockets live in `/tmp/roster-<uid>/<hash of the path>`: the same for every
    process that names the same directory, whatever its environment.

    Raises:
        ConfigError: it cannot be made, or belongs to somebody else.
    """
    used = socket_directory(directory)
    if used == Path(os.path.realpath(directory)):
        return ensure_private_dir(used)
    _own_directory(used.parent)
    _own_directory(used)
    return used


def socket_directory(directory: Path) -> Path:
    """Return where the sockets of a bus directory are, and make nothing."""
    # Two names of one directory must lead to the same sockets.
    real = Path(os.path.realpath(directory))
    if len(os.fsencode(real)) + 1 + _NAME_BYTES <= MAX_PATH_BYTES:
        return real
    # Not TMPDIR and not XDG_RUNTIME_DIR: a service and a login session of one user differ in both.
    base = Path(f"/tmp/roster-{os.getuid()}")  # noqa: S108 - made private and checked against strangers by its user
    return base / hashlib.sha256(os.fsencode(real)).hexdigest()[:16]


def leave_directory(named: Path, used: Path) -> None:
    """Remove the short directory that stands in for a long one, if nobody uses it any more."""
    if used != Path(os.path.realpath(named)):
        with suppress(OSError):  # somebody does
            used.rmdir()


def _own_directory(path: Path) -> None:
    """Make a directory where strangers can write beside us, or accept it if it is ours and private."""
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        info = path.lstat()
    except OSError as error:
        raise ConfigError(
            f"cannot make the directory {path} for the sockets of the local bus: {error.strerror};"
            " choose a shorter ROSTER_STATE_DIR"
        ) from error
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or stat.S_IMODE(info.st_mode) & 0o077:
        raise ConfigError(
            f"{path} is not a private directory of this user, so the sockets of the local bus cannot live"
            " there; remove it or choose a shorter ROSTER_STATE_DIR"
        )


class Claim:
    """A pair of files held by this process: the lock, and the socket that listens.

    Raises:
        BusUnavailableError: another live process holds it, or the files cannot be made.
    """

    def __init__(self, directory: Path, stem: str, name: str, patterns: Sequence[str]) -> None:
        self.path = directory / f"{stem}.sock"
        self._lock_path = directory / f"{stem}.lock"
        self.name = name
        self._patterns = tuple(patterns)
        self.lock_fd = -1
        self.listener: socket.socket | None = None
        self._identity = (0, 0)
        self._take()

    def _take(self) -> None:
        try:
            self._lock()
            self._listen()
        except OSError as error:
            self.release()
            raise BusUnavailableError(
                f"cannot make the socket of the queue {self.name!r} in {self.path.parent}: {error.strerror}"
            ) from error
        except BaseException:
            self.release()
            raise

    def _lock(self) -> None:
        while True:
            fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                mine = os.fstat(fd)
                # The one before us may have removed the file between our open and our lock.
                current = _identity(self._lock_path)
            except BlockingIOError:
                os.close(fd)
                raise BusUnavailableError(
                    f"another live consumer serves the queue {self.name!r}; stop it, or choose another queue"
                ) from None
            except BaseException:
                os.close(fd)
                raise
            if current == (mine.st_dev, mine.st_ino):
                break
            os.close(fd)
        self.lock_fd = fd
        declaration = json.dumps({"name": self.name, "patterns": self._patterns, "pid": os.getpid()})
        os.ftruncate(fd, 0)
        os.pwrite(fd, declaration.encode(), 0)

    def _listen(self) -> None:
        """Bind beside the final path and rename over it: nobody ever meets a socket that does not listen."""
        fresh = self.path.with_suffix(f".{os.urandom(4).hex()}.tmp")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            listener.bind(os.fspath(fresh))
            fresh.chmod(0o600)
            listener.listen(BACKLOG)
            fresh.replace(self.path)
        except BaseException:
            listener.close()
            with suppress(OSError):  # it may not have come so far
                fresh.unlink()
            raise
        self.listener = listener
        self._identity = _identity(self.path)

    def intact(self) -> bool:
        """Tell whether both files are still ours."""
        if self.lock_fd < 0 or self.listener is None or _identity(self.path) != self._identity:
            return False
        mine = os.fstat(self.lock_fd)
        return _identity(self._lock_path) == (mine.st_dev, mine.st_ino)

    def release(self) -> None:
        """Stop listening, remove what is ours, let go of the lock."""
        if self.listener is not None:
            self.listener.close()
            self.listener = None
            if _identity(self.path) == self._identity:
                with suppress(OSError):  # the directory may be gone
                    self.path.unlink()
        if self.lock_fd >= 0:
            mine = os.fstat(self.lock_fd)
            if _identity(self._lock_path) == (mine.st_dev, mine.st_ino):
                with suppress(OSError):  # the directory may be gone
                    self._lock_path.unlink()
            os.close(self.lock_fd)
            self.lock_fd = -1


def _identity(path: Path) -> tuple[int, int]:
    try:
        info = path.lstat()
    except OSError:
        return (0, 0)
    return (info.st_dev, info.st_ino)


def sweep(directory: Path, stem: str) -> bool:
    """Remove the files of an owner that is dead; return whether they are gone."""
    lock = directory / f"{stem}.lock"
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = os.fstat(fd)
        if _identity(lock) != (mine.st_dev, mine.st_ino):
            return False
        (directory / f"{stem}.sock").unlink(missing_ok=True)
        lock.unlink()
    except OSError:  # somebody lives there
        return False
    finally:
        os.close(fd)
    return True


def sweep_subscribers(directory: Path) -> None:
    """Remove what dead subscribers left: their names are never used again, so nobody else would."""
    for stem in _stems(directory):
        if stem.startswith("s"):
            sweep(directory, stem)


def _stems(directory: Path) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return [entry.name[:-5] for entry in entries if entry.name.endswith(".sock")]
    except OSError:
        return []


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A socket in the directory: the name of its files, the name to greet it with, what it listens to."""

    stem: str
    name: str
    patterns: tuple[str, ...]


class Neighbours:
    """Who listens to what in the directory, read again when the directory has changed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._mtime = -1
        self._all: list[Neighbour] = []
        self._by_key: dict[str, list[Neighbour]] = {}

    def matching(self, key: str) -> list[Neighbour]:
        """Return those whose patterns match a routing key."""
        self._refresh()
        found = self._by_key.get(key)
        if found is None:
            found = [each for each in self._all if matches_any(each.patterns, key)]
            if len(self._by_key) >= _MAX_KEYS:
                self._by_key.clear()
            self._by_key[key] = found
        return found

    def _refresh(self) -> None:
        try:
            mtime = self._directory.stat().st_mtime_ns
        except OSError:
            self._all, self._mtime = [], -1
            self._by_key.clear()
            return
        if mtime == self._mtime:
            return
        self._all = [each for stem in _stems(self._directory) if (each := self._read(stem)) is not None]
        self._by_key.clear()
        # A directory's time moves in steps of some milliseconds: what changed in this one must be looked at
        # again.
        self._mtime = -1 if abs(time.time_ns() - mtime) < _UNSETTLED_NS else mtime

    def _read(self, stem: str) -> Neighbour | None:
        try:
            fd = os.open(self._directory / f"{stem}.lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno != errno.ENOENT:
                log.warning("cannot read %s.lock in %s: %s", stem, self._directory, error.strerror)
            return None
        try:
            declared = json.loads(os.read(fd, _MAX_DECLARATION))
            name, patterns = declared["name"], declared["patterns"]
            if not isinstance(name, str) or not all(isinstance(each, str) for each in patterns):
                return None
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return (
                None  # its owner is writing it now; its socket comes after, and changes the directory again
            )
        finally:
            os.close(fd)
        return Neighbour(stem, name, tuple(patterns))
