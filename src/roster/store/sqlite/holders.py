"""Proof of death: a file per client, locked with `flock` while its process lives."""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path


class Holder:
    """The proof of life of one client. The kernel drops the lock when the last process that has it open is gone.

    A forked child that inherits the file keeps the lock, then only the time to live decides. The lock is
    taken before the file gets the name under which others look for it.
    """

    def __init__(self, directory: Path) -> None:
        self.number = secrets.randbits(63) or 1
        self._path = directory / f"h-{self.number:016x}"
        draft = directory / f"n-{self.number:016x}"
        self._fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            draft.rename(self._path)
        except BaseException:
            os.close(self._fd)
            draft.unlink(missing_ok=True)
            raise

    def close(self) -> None:
        """Give up the proof: whoever looks from now on sees a dead holder."""
        self._path.unlink(missing_ok=True)
        os.close(self._fd)


def is_dead(directory: Path, number: int) -> bool | None:
    """Test one holder.

    Returns:
        True: proven dead. False: alive. None: there is no telling (its file is missing or cannot be opened).
    """
    try:
        fd = os.open(directory / f"h-{number:016x}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        # Shared, so that two who test at once do not take each other for the holder.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    else:
        return True
    finally:
        os.close(fd)


def holders(directory: Path) -> list[int]:
    """Return the numbers of all holders whose file is there."""
    return [int(path.name[2:], 16) for path in directory.glob("h-" + "[0-9a-f]" * 16)]


def forget(directory: Path, number: int) -> None:
    """Remove the file of a holder that is proven dead and holds nothing any more."""
    try:
        (directory / f"h-{number:016x}").unlink()
    except OSError:
        pass  # somebody else was quicker, or the directory cannot be written: a small file stays behind


class Examiner:
    """Which of the watching clients tests the holders: one at a time, so that the tests cost the same for 2 or 200.

    The one is whoever holds the lock on a file. It leaves the time of each round in it, so that the others
    take over when it stands still with the lock in its hands.
    """

    def __init__(self, directory: Path) -> None:
        self._fd = os.open(directory / "examiner", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.chosen = False

    def elect(self, now: float, patience: float) -> bool:
        """Return whether this client should test: it is the one, or the one was silent for `patience` seconds."""
        if self.chosen:
            return True
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            try:
                last = float(os.pread(self._fd, 32, 0) or b"0")
            except (OSError, ValueError):
                return True
            return not 0 <= now - last <= patience
        self.chosen = True
        return True

    def note(self, now: float) -> None:
        """Leave the time of a round, if this client is the one."""
        if self.chosen:
            try:
                os.pwrite(self._fd, b"%-31.3f\n" % now, 0)
            except OSError:
                pass  # a full disk at the very first round: then the others test as well

    def close(self) -> None:
        """Let another be the one."""
        os.close(self._fd)
