"""Commands that were given out again, and begun again, and that nobody decides about: how often their node died of it.

Our own callers count that themselves. A command of another program, or one that nobody waits for, comes back to its queue
each time its node dies, and would kill it again and again. The broker does not count; so a byte is written to a file in the
state directory for each such beginning, and the file removed at the end. What must not begin twice (`idempotent: false`) has
all its strikes at once.
"""

from __future__ import annotations

import logging
import os
import time
from hashlib import blake2b
from pathlib import Path

from roster._paths import ensure_private_dir, state_dir
from roster.errors import ConfigError

log = logging.getLogger("roster.bus")

# Beginnings on record after which a command is not begun again. That which was not given out again yet is not on record.
MAX_STRIKES = 2
_MAX_FILES = 1000
_OLD = 7 * 86_400.0

Key = tuple[str, str]


class Strikes:
    """What is on record for one queue. Without a state directory that can be written there is no record.

    Args:
        queue: the queue's name.
    """

    def __init__(self, queue: str) -> None:
        self._directory = state_dir() / "begun" / _digest(queue)
        self._known: dict[str, int] = {}
        try:
            with os.scandir(self._directory) as found:
                files = [(one.name, one.stat()) for one in found]
        except OSError:
            return  # nothing was begun twice here
        for name, about in files:
            if time.time() - about.st_mtime > _OLD:
                self._remove(name)
            else:
                self._known[name] = about.st_size

    def count(self, key: Key) -> int:
        """Return how often a command was begun of those times that it was given out again."""
        return self._known.get(_digest(*key), 0)

    def note(self, key: Key, *, last: bool = False) -> None:
        """A command that was given out again begins, or one that must not begin again (`last`)."""
        name = _digest(*key)
        if name not in self._known and len(self._known) >= _MAX_FILES:
            return
        before = self._known.get(name, 0)
        now = self._known[name] = max(MAX_STRIKES if last else 0, before + 1)
        try:
            ensure_private_dir(self._directory.parent.parent)
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with Path(self._directory, name).open("ab") as file:
                file.write(b"x" * (now - before))
        except (OSError, ConfigError) as error:
            log.warning("that a command begins once more is not on record: %s", error)

    def over(self, key: Key) -> None:
        """It has come to an end, or another begins that looks the same."""
        name = _digest(*key)
        if self._known.pop(name, 0):
            self._remove(name)

    def _remove(self, name: str) -> None:
        try:
            Path(self._directory, name).unlink(missing_ok=True)
        except OSError as error:
            log.debug("a record of a command that has ended stays: %s", error)


def _digest(*words: str) -> str:
    return blake2b("\0".join(words).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
