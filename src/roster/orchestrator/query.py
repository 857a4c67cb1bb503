"""Which nodes will do for a call: what its caller says of them, read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from roster.passport import Selector, VersionRange

SelectorLike = Selector | str | Mapping[str, Any] | None


class Where(TypedDict):
    """Which of the nodes that have a capability will do, as the router is asked."""

    version: VersionRange | None
    selector: Selector | None
    namespace: str | None


@dataclass(frozen=True, slots=True)
class Query:
    """Which nodes will do, and how one of them is chosen."""

    capability: str
    version: VersionRange | None = None
    selector: Selector | None = None
    namespace: str | None = None
    strategy: str | None = None
    sticky_key: str | None = None

    @classmethod
    def of(
        cls,
        capability: str,
        *,
        selector: SelectorLike = None,
        version: VersionRange | str | None = None,
        namespace: str | None = None,
        strategy: str | None = None,
        sticky_key: str | None = None,
    ) -> Query:
        """Read what a caller says; the arguments are those of `Orchestrator.call`.

        Raises:
            SelectorError: the selector or the version range cannot be read.
        """
        return cls(
            capability,
            VersionRange.parse(version) if isinstance(version, str) else version,
            Selector.parse(selector)
            if selector is not None and not isinstance(selector, Selector)
            else selector,
            namespace,
            strategy,
            sticky_key,
        )

    @property
    def where(self) -> Where:
        """Which of the nodes with the capability will do."""
        return {"version": self.version, "selector": self.selector, "namespace": self.namespace}
