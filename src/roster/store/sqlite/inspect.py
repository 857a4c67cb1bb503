"""Looks at a registry file from outside, for people: nothing is opened for writing, made, or repaired."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from roster._clock import boottime
from roster.store.base import Term
from roster.store.sqlite.census import lease_place
from roster.store.sqlite.leasefile import LeaseFile
from roster.store.sqlite.schema import beside


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What lies where a registry file should be.

    Attributes:
        path: where the database should be.
        size: its bytes; None if it is not there.
        mode: its permission bits.
        used: whether clients have used a file of this name here.
        same: whether it is the file that they used.
        leases: whether the file of leases lies beside it.
        free: bytes that a user without privileges can still write there; None if that cannot be found out.
    """

    path: Path
    size: int | None
    mode: int
    used: bool
    same: bool
    leases: bool
    free: int | None


def look(path: str) -> FileFacts:
    """Return what lies there.

    Raises:
        OSError: the place cannot be looked at.
    """
    database = Path(os.path.realpath(path))
    size, mode, inode = None, 0, 0
    try:
        found = database.stat()
        size, mode, inode = found.st_size, found.st_mode & 0o777, found.st_ino
    except FileNotFoundError:
        pass  # that is the finding
    try:
        noted = (beside(database, "-run") / "inode").read_text("ascii")
    except FileNotFoundError:
        noted = ""
    return FileFacts(
        database,
        size,
        mode,
        used=noted != "",
        same=noted == str(inode),
        leases=beside(database, "-leases").exists(),
        free=_free(database.parent),
    )


def _free(directory: Path) -> int | None:
    try:
        space = os.statvfs(directory)
    except OSError:
        return None
    return space.f_bavail * space.f_frsize


def lease_terms(
    path: str, cluster: str, names: Iterable[str], *, now: Callable[[], float] = boottime
) -> dict[str, Term]:
    """Return how leases stand, by id; those that cannot be read are left out.

    Args:
        path: the database.
        cluster: `StoreInfo.cluster_id`.
        names: ids of leases.
        now: the clock that leases run by.

    Raises:
        OSError: the file of leases cannot be read.
    """
    leases = LeaseFile.open(beside(Path(os.path.realpath(path)), "-leases"), cluster, readonly=True)
    if leases is None:
        return {}
    found = {}
    try:
        for name in names:
            place = lease_place(name)
            slot = leases.read(place[1]) if place is not None else None
            if place is not None and slot is not None and slot.number == place[0] and not slot.ended:
                left = slot.deadline - now()
                found[name] = Term(slot.ttl, slot.ttl - left, left)
    finally:
        leases.close()
    return found
