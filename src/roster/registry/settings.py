"""Reads TTL and retention from arguments and the environment."""

from __future__ import annotations

import os

from roster.errors import ConfigError
from roster.store.base import MAX_TTL, MIN_TTL

DEFAULT_TTL = 30.0
DEFAULT_RETENTION = 3600.0
# By engine: who reads passports from outside reads them there, not in a SQLite file.
PASSPORT_REFRESH = {"etcd": 30.0, "consul": 30.0, "zookeeper": 30.0}


def seconds(value: float | None, variable: str, default: float, *, least: float = MIN_TTL) -> float:
    """Return a duration: the argument, else the environment, else the default.

    Raises:
        ConfigError: it is no number, or outside of what a store can keep.
    """
    what = variable.removeprefix("ROSTER_").lower()
    if value is None:
        text = os.environ.get(variable, "").strip()
        if not text:
            return default
        what = variable
        try:
            value = float(text)
        except ValueError:
            raise ConfigError(
                f"{variable} is a number of seconds, such as {default:g}; it is {text[:40]!r}"
            ) from None
    if not least <= value <= MAX_TTL:
        raise ConfigError(f"{what} is between {least:g} and {MAX_TTL:g} seconds, not {value:g}")
    return value
