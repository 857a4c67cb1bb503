"""Capabilities over all nodes that offer them, as `get capabilities` and `describe capability` show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from roster.errors import NoCapableNodesError

if TYPE_CHECKING:
    from roster.passport import Capability
    from roster.registry import Mismatch, NodeRecord


@dataclass(slots=True)
class Offer:
    """One capability and who offers it.

    Attributes:
        name: what callers ask for.
        nodes: who offers it, in whatever state.
        mismatches: its versions that nodes declare with different schemas.
    """

    name: str
    nodes: list[NodeRecord] = field(default_factory=list)
    mismatches: list[Mismatch] = field(default_factory=list)

    @property
    def healthy(self) -> int:
        """How many of the nodes are ready or busy."""
        return sum(record.healthy for record in self.nodes)

    @property
    def versions(self) -> list[str]:
        """The versions on offer."""
        return sorted({record.capabilities.get(self.name) or "" for record in self.nodes} - {""})

    @property
    def contracts(self) -> dict[str, dict[str, list[str]]]:
        """The nodes that are not offline, under the digest of their contract, under the version."""
        from roster.registry.contracts import contract_digest

        found: dict[str, dict[str, list[str]]] = {}
        for record in self.nodes:
            if record.state != "offline":
                digests = found.setdefault(record.capabilities.get(self.name) or "", {})
                digests.setdefault(contract_digest(record, self.name), []).append(record.key)
        return found

    @property
    def declared(self) -> Capability | None:
        """How the first node declares it."""
        return self.nodes[0].passport.capability(self.name)

    @property
    def description(self) -> str:
        """What it does, in the words of the first node."""
        declared = self.declared
        return declared.description if declared is not None else ""

    def to_dict(self) -> dict[str, Any]:
        """Return it for programs."""
        declared = self.declared
        return {
            "name": self.name,
            "description": self.description,
            "versions": self.versions,
            "healthy": self.healthy,
            "mismatch": bool(self.mismatches),
            "contracts": self.contracts,
            "nodes": [
                {
                    "namespace": record.namespace,
                    "name": record.name,
                    "state": record.state,
                    "version": record.capabilities.get(self.name),
                }
                for record in self.nodes
            ],
            "input_schema": declared.input_schema if declared is not None else None,
            "output_schema": declared.output_schema if declared is not None else None,
        }


def offers(records: Iterable[NodeRecord], mismatches: Iterable[Mismatch] = ()) -> list[Offer]:
    """Return every capability of these nodes, by name, with those of the mismatches that concern it."""
    found: dict[str, Offer] = {}
    for record in records:
        for name in record.capabilities:
            found.setdefault(name, Offer(name)).nodes.append(record)
    for mismatch in mismatches:
        offer = found.get(mismatch.capability)
        if offer is not None:
            offer.mismatches.append(mismatch)
    return [found[name] for name in sorted(found)]


def mismatch_lines(found: Iterable[Offer]) -> list[str]:
    """Return a warning for each version of a capability that is declared with different schemas."""
    return [
        f"contract mismatch: {mismatch.title}: {mismatch.said()}; give the changed contract a version of its own"
        for offer in found
        for mismatch in offer.mismatches
    ]


def need_offers(found: Sequence[Offer], names: Sequence[str]) -> list[Offer]:
    """Return those with these names.

    Raises:
        NoCapableNodesError: nobody offers one of them.
    """
    by_name = {offer.name: offer for offer in found}
    for name in names:
        if name not in by_name:
            raise NoCapableNodesError(
                f"no node offers the capability {name!r}: see what is on offer with 'roster get capabilities -A'",
                capability=name,
            )
    return [by_name[name] for name in names]
