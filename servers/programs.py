"""Where the servers' programs are: what scripts/setup-servers found, or why there is none."""

from __future__ import annotations

import json
import os
from pathlib import Path

INDEX = Path(__file__).resolve().parent.parent / ".servers" / "servers.json"


class ServerMissingError(Exception):
    """This machine has no program for an engine; the text says why and what to do."""


def programs(engine: str) -> dict[str, str]:
    """Return the programs of an engine by name.

    `ROSTER_TEST_SERVERS` names another index than the project's own.

    Raises:
        ServerMissingError: there are none here.
    """
    found = _entry(engine)
    if "docker" in found:
        raise _missing(engine, " but in a container, and these tests kill and freeze a process")
    return found


def in_container(engine: str) -> bool:
    """Return whether an engine can be had in a container, and only there.

    Raises:
        ServerMissingError: it cannot be had at all.
    """
    return "docker" in _entry(engine)


def _entry(engine: str) -> dict[str, str]:
    index = Path(os.environ.get("ROSTER_TEST_SERVERS") or INDEX)
    try:
        found: dict[str, str] | None = json.loads(index.read_text()).get(engine)
    except FileNotFoundError:
        found = None
    if found is None:
        raise _missing(engine, "")
    if why := found.get("missing"):
        raise _missing(engine, f" ({why})")
    return found


def _missing(engine: str, why: str) -> ServerMissingError:
    return ServerMissingError(
        f"no {engine} here{why}: run scripts/setup-servers {engine}, or name a server: ROSTER_TEST_{engine.upper()}=URL"
    )
