"""Dead letters of the local bus: a file each, in a private directory, the oldest going first."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from roster._clock import utc_now
from roster.bus.base import MAX_DEAD_LETTERS, Buried, DeadLetter
from roster.bus.message import Message
from roster.errors import BusUnavailableError, MessageError

_MAX_FILE_BYTES = 2 * 1024 * 1024


def bury(directory: Path, message: Message, reason: str) -> None:
    """Write a dead letter.

    Raises:
        BusUnavailableError: it cannot be written.
    """
    letter = {"reason": reason, "buried_at": utc_now(), "message": json.loads(message.to_bytes())}
    # The name sorts by time of burial; the rest keeps processes apart.
    path = directory / f"{time.time_ns():020d}-{os.getpid()}-{os.urandom(3).hex()}.json"
    draft = path.with_suffix(".draft")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(letter, file, ensure_ascii=False)
        draft.rename(path)
        for old in sorted(directory.glob("*.json"))[:-MAX_DEAD_LETTERS]:
            old.unlink(missing_ok=True)
    except OSError as error:
        raise BusUnavailableError(f"cannot keep a dead letter in {directory}: {error.strerror}") from error


def letters(directory: Path) -> list[DeadLetter]:
    """Return what is kept, oldest first; a file that is no dead letter is passed over."""
    return [letter for _, letter in _read(directory)]


def drop(directory: Path, chosen: Callable[[Buried], bool]) -> list[DeadLetter]:
    """Remove the dead letters that are chosen, and return them.

    Raises:
        BusUnavailableError: one cannot be removed.
    """
    dropped = []
    for path, letter in _read(directory):
        if chosen(letter) and remove(path):
            dropped.append(letter)
    return dropped


def remove(path: Path) -> bool:
    """Remove a dead letter; return False if somebody else was first.

    Raises:
        BusUnavailableError: it cannot be removed.
    """
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise BusUnavailableError(
            f"cannot remove a dead letter in {path.parent}: {error.strerror}"
        ) from error
    return True


def take(directory: Path, id: str) -> tuple[DeadLetter, Path, BinaryIO] | None:
    """Take the newest dead letter with an id into hand, if nobody else has it; closing the file lets go of it.

    Raises:
        BusUnavailableError: it cannot be taken.
    """
    found = [(path, letter) for path, letter in _read(directory) if letter.id == id]
    if not found:
        return None
    path, letter = found[-1]
    file = None
    try:
        file = path.open("rb")
        # The lock ends with the process.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            return letter, path, file
    except (BlockingIOError, FileNotFoundError):
        pass  # somebody else has it in hand, or has dropped it
    except OSError as error:
        raise BusUnavailableError(f"cannot take a dead letter in {directory}: {error.strerror}") from error
    if file is not None:
        file.close()
    return None


def _read(directory: Path) -> Iterator[tuple[Path, DeadLetter]]:
    for path in sorted(directory.glob("*.json")) if directory.is_dir() else ():
        try:
            with path.open("rb") as file:
                letter = json.loads(file.read(_MAX_FILE_BYTES))
            message = Message.from_bytes(json.dumps(letter["message"]).encode(), limit=_MAX_FILE_BYTES)
            found = DeadLetter(message, str(letter["reason"]), str(letter["buried_at"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError, MessageError):
            continue  # being written, being removed, or somebody else's
        yield path, found
