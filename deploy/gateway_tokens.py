#!/usr/bin/env python3
"""Makes tokens for the gateway: a file for each who may come, and the file with their digests that the gateway reads.

    deploy/gateway_tokens.py --secrets deploy/secrets ops=operator prometheus=reader
    deploy/gateway_tokens.py --secrets deploy/secrets ops=operator counter=node:ai-team/counter-001:count_words

Tokens are made at random into files NAME.token of the secrets' directory, for their owner alone, and kept when they are
there. The file of digests, gateway-tokens.yaml, is written anew: who is not named any more is not let in any more. A gateway
that runs reads it again by itself.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

DIGESTS = "gateway-tokens.yaml"
_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_GRANT = re.compile(
    rf"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{{0,99}})="
    rf"(?P<role>reader|operator|node:(?P<node>{_LABEL}/{_LABEL}):(?P<capabilities>[A-Za-z0-9._*?,-]+))"
)
# What the gateway asks of a token.
_LEAST = 32


@dataclass(frozen=True)
class Grant:
    """Who may come, and as what."""

    name: str
    role: str
    node: str = ""
    capabilities: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Grant:
        """Read `NAME=ROLE`."""
        found = _GRANT.fullmatch(text)
        if found is None:
            raise argparse.ArgumentTypeError(
                f"{text!r}: write NAME=reader, NAME=operator or NAME=node:NAMESPACE/NAME:CAPABILITY,..."
            )
        granted = tuple(one for one in (found["capabilities"] or "").split(",") if one)
        return cls(found["name"], found["role"].partition(":")[0], found["node"] or "", granted)

    def entry(self, token: str) -> dict[str, object]:
        """Return the entry of the file of digests."""
        out: dict[str, object] = {"name": self.name, "role": self.role}
        out["sha256"] = hashlib.sha256(token.encode()).hexdigest()
        if self.role == "node":
            out |= {"node": self.node, "capabilities": list(self.capabilities)}
        return out


def token(file: Path) -> str:
    """Return what a token's file holds; without one it is made."""
    try:
        found = file.read_text().strip()
    except FileNotFoundError:
        found = secrets.token_hex(32)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as made:
            made.write(found + "\n")
    if len(found) < _LEAST:
        raise SystemExit(
            f"{file} holds no token of at least {_LEAST} characters: remove it, and a new one is made"
        )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("grants", nargs="+", type=Grant.parse, metavar="NAME=ROLE", help="who, and as what")
    parser.add_argument(
        "--secrets", type=Path, required=True, metavar="DIRECTORY", help="where the tokens are kept"
    )
    given = parser.parse_args()
    grants: list[Grant] = given.grants
    if twice := {one.name for one in grants if sum(one.name == other.name for other in grants) > 1}:
        print(f"{parser.prog}: named more than once: {', '.join(sorted(twice))}", file=sys.stderr)
        return 1
    place: Path = given.secrets
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    entries = [one.entry(token(place / f"{one.name}.token")) for one in grants]
    # JSON is YAML. Whoever reads digests of random tokens learns nothing, and a container's user has to read them.
    scratch = place / f"{DIGESTS}.new"
    scratch.write_text(json.dumps({"tokens": entries}, indent=1) + "\n")
    scratch.chmod(0o644)
    # Written over, not replaced: a file that is mounted into a container stays the one that it is.
    target = place / DIGESTS
    if target.exists():
        target.write_bytes(scratch.read_bytes())
        scratch.unlink()
    else:
        scratch.rename(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
