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
    index = Path(os.environ.get("ROSTER_TEST_SERVERS") or INDEX)
    how = f"run scripts/setup-servers {engine}, or name a server: ROSTER_TEST_{engine.upper()}=URL"
    try:
        found: dict[str, str] | None = json.loads(index.read_text()).get(engine)
    except OSError:
        found = None
    if found is None:
        raise ServerMissingError(f"no {engine} here: {how}")
    if why := found.get("missing"):
        raise ServerMissingError(f"no {engine} here ({why}): {how}")
    return found
