"""Looks at the sockets of a local bus from outside, for people: who lives there; nothing is made or removed."""

from __future__ import annotations

import errno
import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path

_MAX_DECLARATION = 256 * 1024


@dataclass(frozen=True, slots=True)
class QueueFile:
    """The socket of one queue.

    Attributes:
        name: the queue.
        pid: the process that said that it serves it, 0 if it did not say.
        alive: whether somebody listens.
    """

    name: str
    pid: int
    alive: bool


def survey(directory: Path) -> list[QueueFile]:
    """Return the queues that have a socket in the directory where the sockets are, by name.

    Raises:
        OSError: the directory cannot be read.
    """
    found = []
    for path in sorted(directory.glob("q*.sock")):
        name, pid = _declared(path.with_suffix(".lock"))
        found.append(QueueFile(name or path.name, pid, _listens(path)))
    return sorted(found, key=lambda queue: queue.name)


def _declared(lock: Path) -> tuple[str, int]:
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return "", 0
    try:
        said = json.loads(os.read(fd, _MAX_DECLARATION))
        name, pid = said["name"], said["pid"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return "", 0  # its owner writes it at this moment
    finally:
        os.close(fd)
    return (name if isinstance(name, str) else ""), (pid if isinstance(pid, int) else 0)


def _listens(path: Path) -> bool:
    # A lock would be surer, but taking one, be it shared and for a moment, can cost a starting node its name.
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except OSError as error:
            return error.errno in (errno.EAGAIN, errno.EINPROGRESS)  # alive, and its backlog is full
        return True
