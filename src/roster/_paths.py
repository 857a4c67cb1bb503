"""Where Roster keeps its files on this machine."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from roster.errors import ConfigError


def state_dir() -> Path:
    """Return the user's state directory: `ROSTER_STATE_DIR`, else the platform's usual place. It is not created.

    Source: XDG Base Directory Specification; on macOS `~/Library/Application Support`.
    """
    if named := os.environ.get("ROSTER_STATE_DIR"):
        return Path(named).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "roster"
    base = os.environ.get("XDG_STATE_HOME")
    # The specification says to ignore a relative path here.
    root = Path(base) if base and Path(base).is_absolute() else Path.home() / ".local" / "state"
    return root / "roster"


def ensure_private_dir(path: Path) -> Path:
    """Make a directory that only this user can enter (0700), and return it.

    Raises:
        ConfigError: it cannot be made, is not a directory, or belongs to somebody else.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = path.stat()
    except OSError as error:
        raise ConfigError(
            f"cannot make the directory {path}: {error.strerror}; choose another with ROSTER_STATE_DIR"
        ) from error
    if info.st_uid != os.getuid() and os.getuid() != 0:
        raise ConfigError(
            f"the directory {path} belongs to another user; choose another with ROSTER_STATE_DIR"
        )
    if stat.S_IMODE(info.st_mode) & 0o077:
        try:
            path.chmod(0o700)
        except OSError as error:
            raise ConfigError(f"cannot make {path} private (0700): {error.strerror}") from error
    return path
