"""The two keys that a node has in the store, made and read."""

from __future__ import annotations

import re
from typing import NamedTuple

ROOT = "/ai-team/"
NODES = "/ai-team/nodes/"
STATUS = "/ai-team/status/"

# Two DNS-1123 labels, as Kubernetes asks of names. `\Z`, not `$`: `$` would let a trailing newline through.
_LABEL = r"([a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)"
_IDENTITY = re.compile(rf"{_LABEL}/{_LABEL}\Z")


class NodeKey(NamedTuple):
    """A node's identity as its key spells it."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def split(path: str, prefix: str) -> NodeKey | None:
    """Return the identity that a key under `prefix` spells, or None if it spells none."""
    found = _IDENTITY.match(path, len(prefix))
    return NodeKey(*found.groups()) if found else None


def node_key(namespace: str, name: str) -> str:
    """Return the key of a passport. The founding document's: it never changes."""
    return f"{NODES}{namespace}/{name}"


def status_key(namespace: str, name: str) -> str:
    """Return the key of the small status document, bound to the node's lease."""
    return f"{STATUS}{namespace}/{name}"
