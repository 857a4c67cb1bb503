"""Sums up each capability over the nodes that offer it, for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from roster.registry.contracts import contract_digest
from roster.registry.record import NodeRecord


@dataclass(frozen=True, slots=True)
class CapabilitySummary:
    """One capability over all nodes that offer it.

    Attributes:
        name: of the capability.
        versions: how many nodes offer each version (the node's own where the capability names none; None:
            neither has one).
        nodes: how many nodes offer it, in whatever state.
        healthy: how many of them are ready or busy.
        contracts: for each version, how many nodes that are not offline have each digest of input and output
            schema. More than one digest in a version means that two nodes disagree about what the capability
            takes or gives.
    """

    name: str
    versions: Mapping[str | None, int]
    nodes: int
    healthy: int
    contracts: Mapping[str | None, Mapping[str, int]]

    @property
    def mismatch(self) -> bool:
        """Whether nodes offer one version under different contracts."""
        return any(len(digests) > 1 for digests in self.contracts.values())


def summarize(
    capabilities: Mapping[str, Mapping[str, NodeRecord]], namespace: str | None
) -> list[CapabilitySummary]:
    """Return a summary of each capability, by name; of one namespace, or of all."""
    out = []
    for name, members in sorted(capabilities.items()):
        records = [one for one in members.values() if namespace is None or one.namespace == namespace]
        if not records:
            continue
        versions: dict[str | None, int] = {}
        contracts: dict[str | None, dict[str, int]] = {}
        for record in records:
            version = record.capabilities.get(name)
            versions[version] = versions.get(version, 0) + 1
            digests = contracts.setdefault(version, {})
            if record.state != "offline":
                digest = contract_digest(record, name)
                digests[digest] = digests.get(digest, 0) + 1
        healthy = sum(record.healthy for record in records)
        out.append(CapabilitySummary(name, versions, len(records), healthy, contracts))
    return out
