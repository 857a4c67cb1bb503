"""The file of lease slots beside the database: who holds which lease, and until when.

A lease has one slot of 128 bytes, preallocated, in two halves with a checksum each. The first half is
written by whoever holds the database's write lock: which lease the slot belongs to, and whether it was
ended. The second is written by the lease's holder alone, without any lock: its deadline. So a renewal is
one `pwrite` of 24 bytes into a block that the file has already (it works on a full disk, where no UPDATE
would), and a renewal that comes late, because its process stood still in the middle of it, cannot undo the
mark that ended the lease.
"""

from __future__ import annotations

import os
import stat
import struct
from binascii import crc32
from pathlib import Path
from typing import NamedTuple

SLOT = 128
GROWTH = 64
_MAGIC = b"ROSTERL1"
_HEADER = struct.Struct("<8sI64s")
_GRANT = struct.Struct("<QQ16sdI")
_TERM = struct.Struct("<QdI")
_CRC = struct.Struct("<I")
_TERM_AT = 64
# Both halves of a slot at once: number, holder, boot, ttl, flags, seal, then number, deadline, marks, seal.
_BOTH = struct.Struct("<QQ16sdII16xQdII40x")

LINGERING = 1
ENDED = 2
RELEASED = 1
# A reader that meets a half-written slot looks again at once: a write of one slot takes less than a
# microsecond.
_LOOKS = 4
_UNUSED = bytes(SLOT)


class Slot(NamedTuple):
    """What a slot says.

    Attributes:
        number: the lease it belongs to, 0 if it never had one.
        holder: the holder's number; `h-NUMBER` is its proof of life.
        boot: the boot in which it was granted.
        ttl: seconds.
        lingering: whether only time ends it.
        ended: whether somebody has ended it.
        deadline: when it ends by time, `CLOCK_BOOTTIME` seconds.
        released: whether its holder will never write to the slot again.
    """

    number: int
    holder: int
    boot: bytes
    ttl: float
    lingering: bool
    ended: bool
    deadline: float
    released: bool


def _sealed(body: bytes) -> bytes:
    return body + _CRC.pack(crc32(body))


def parse(raw: bytes, at: int = 0) -> Slot | None:
    """Return the slot at an offset of `raw`, or None if a checksum does not hold (or `raw` ends before)."""
    if len(raw) < at + SLOT:
        return None
    if raw[at : at + SLOT] == _UNUSED:
        return Slot(0, 0, bytes(16), 0.0, False, False, 0.0, True)
    term = at + _TERM_AT
    if _CRC.unpack_from(raw, at + _GRANT.size)[0] != crc32(raw[at : at + _GRANT.size]):
        return None
    if _CRC.unpack_from(raw, term + _TERM.size)[0] != crc32(raw[term : term + _TERM.size]):
        return None
    number, holder, boot, ttl, flags = _GRANT.unpack_from(raw, at)
    owner, deadline, marks = _TERM.unpack_from(raw, term)
    ended = bool(flags & ENDED) or owner != number
    return Slot(number, holder, boot, ttl, bool(flags & LINGERING), ended, deadline, bool(marks & RELEASED))


def glance(raw: bytes) -> list[tuple[int, int, bytes, float, int, int, int, float, int, int]]:
    """Return the fields of all slots, their checksums not tested: to tell cheaply which of many deserve a look."""
    return list(_BOTH.iter_unpack(raw[: len(raw) // SLOT * SLOT]))


class LeaseFile:
    """The open file. Methods that change the first half of a slot are called with the database's write lock held.

    Args:
        path: where it lies.
        fd: open for reading, and for writing unless `readonly`.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        found = os.fstat(fd)
        self._identity = (found.st_dev, found.st_ino)

    @classmethod
    def open(cls, path: Path, cluster: str, *, readonly: bool = False) -> LeaseFile | None:
        """Open the file if it is there and belongs to this database.

        Raises:
            OSError: it is there and cannot be opened.
        """
        try:
            fd = os.open(path, (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        header = os.pread(fd, SLOT, 0)
        if stat.S_ISREG(os.fstat(fd).st_mode) and header == _header(cluster):
            return cls(path, fd)
        os.close(fd)
        return None

    @classmethod
    def create(cls, path: Path, cluster: str) -> LeaseFile:
        """Put a new, empty file in the place of whatever is there: every lease of before has ended by that.

        Raises:
            OSError: the disk is full, or the directory cannot be written.
        """
        draft = path.with_name(f"{path.name}.{os.getpid()}.new")
        fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _write(fd, _header(cluster) + bytes(SLOT * GROWTH), 0)
            draft.replace(path)
        except BaseException:
            os.close(fd)
            draft.unlink(missing_ok=True)
            raise
        return cls(path, fd)

    def close(self) -> None:
        os.close(self._fd)

    def in_place(self) -> bool:
        """Return whether the path still leads to this file."""
        try:
            found = self.path.stat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    def read(self, index: int) -> Slot | None:
        """Return one slot; None if it is unreadable, or beyond the end of the file."""
        for _ in range(_LOOKS):
            slot = parse(os.pread(self._fd, SLOT, _place(index)))
            if slot is not None:
                return slot
        return None

    def read_all(self) -> bytes:
        """Return all slots as they lie in the file; `parse(raw, index * SLOT)` reads one of them."""
        return os.pread(self._fd, os.fstat(self._fd).st_size, SLOT)

    def count(self) -> int:
        """Return how many slots there are."""
        return max(0, os.fstat(self._fd).st_size // SLOT - 1)

    def grow(self) -> None:
        """Add slots, their blocks really written.

        Raises:
            OSError: the disk is full.
        """
        end = _place(self.count())
        try:
            _write(self._fd, bytes(SLOT * GROWTH), end)
        except OSError:
            os.ftruncate(self._fd, end)
            raise

    def grant(self, index: int, slot: Slot) -> None:
        """Write a whole slot: a lease begins."""
        flags = LINGERING if slot.lingering else 0
        first = _sealed(_GRANT.pack(slot.number, slot.holder, slot.boot, slot.ttl, flags)).ljust(
            _TERM_AT, b"\0"
        )
        _write(self._fd, first + _sealed(_TERM.pack(slot.number, slot.deadline, 0)), _place(index))

    def end(self, index: int, slot: Slot) -> None:
        """Mark a lease as ended, for good."""
        flags = (LINGERING if slot.lingering else 0) | ENDED
        _write(
            self._fd,
            _sealed(_GRANT.pack(slot.number, slot.holder, slot.boot, slot.ttl, flags)),
            _place(index),
        )

    def renew(self, index: int, number: int, deadline: float) -> None:
        """Move the deadline; the holder's own business, no lock needed."""
        _write(self._fd, _sealed(_TERM.pack(number, deadline, 0)), _place(index) + _TERM_AT)

    def release(self, index: int, number: int) -> None:
        """Say that the holder will not write to this slot again: the lease is over and the slot may be used anew."""
        _write(self._fd, _sealed(_TERM.pack(number, 0.0, RELEASED)), _place(index) + _TERM_AT)


def _header(cluster: str) -> bytes:
    return _sealed(_HEADER.pack(_MAGIC, SLOT, cluster.encode()[:64])).ljust(SLOT, b"\0")


def _place(index: int) -> int:
    return (index + 1) * SLOT


def _write(fd: int, data: bytes, at: int) -> None:
    while data:
        written = os.pwrite(fd, data, at)
        data = data[written:]
        at += written
