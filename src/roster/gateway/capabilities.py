"""Routes that show what the team can do: the capabilities, who offers each, and who would get the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Path
from starlette.responses import Response

from roster.errors import NodeNotFoundError
from roster.gateway.common import ERRORS, JSON
from roster.gateway.demand import load_of
from roster.gateway.encoding import encode
from roster.gateway.nodes import Limit, Namespace, Page
from roster.gateway.paging import cut, page_token, read_page
from roster.gateway.schemas import CapabilityList, CapabilityShape
from roster.registry import NodeRecord

if TYPE_CHECKING:
    from roster.gateway.core import Gateway

_MAX_LISTED = 1000
PathCapability = Annotated[str, Path(max_length=253, examples=["write_article"])]


def router(gateway: Gateway) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api/v1", tags=["capabilities"])

    @routes.get(
        "/capabilities", response_model=CapabilityList, responses=ERRORS(), summary="List capabilities"
    )
    async def list_capabilities(
        namespace: Namespace = None, limit: Limit = 500, page: Page = None
    ) -> Response:
        """The capability matrix: what is offered, by how many nodes, and how much room there is."""
        after, resume = read_page(page)
        await gateway.registry.synced()
        index = gateway.registry.informer.catalog.index.capabilities
        names = [
            name
            for name in sorted(index)
            if namespace is None or any(one.namespace == namespace for one in index[name].values())
        ]
        page_names, more = cut(names, str, after, limit)
        items = [capability_view(gateway, name, namespace) for name in page_names]
        token = page_token(page_names[-1], resume or gateway.feed.place) if more else None
        return Response(encode({"items": items, "total": len(names), "next": token}), media_type=JSON)

    @routes.get(
        "/capabilities/{capability}",
        response_model=CapabilityShape,
        responses=ERRORS(404),
        summary="Get a capability",
    )
    async def get_capability(capability: PathCapability, namespace: Namespace = None) -> Response:
        """One row of the matrix."""
        await gateway.registry.synced()
        view = capability_view(gateway, capability, namespace)
        if not view["nodes"]:
            raise NodeNotFoundError(
                f"no node offers {capability!r}" + (f" in {namespace}" if namespace else "")
            )
        return Response(encode(view), media_type=JSON)

    return routes


def capability_view(gateway: Gateway, name: str, namespace: str | None) -> dict[str, Any]:
    """Return what there is of a capability."""
    index = gateway.registry.informer.catalog.index
    records = [
        record
        for record in index.by_capability(name).values()
        if namespace is None or record.namespace == namespace
    ]
    healthy = [record for record in records if record.healthy]
    versions: dict[str, int] = {}
    for record in records:
        version = record.capabilities.get(name) or ""
        versions[version] = versions.get(version, 0) + 1
    loads = [load_of(gateway, record) for record in healthy]
    return {
        "name": name,
        "description": _description(records, name),
        "versions": dict(sorted(versions.items())),
        "nodes": len(records),
        "healthy": len(healthy),
        "capacity": sum(capacity for _, capacity in loads),
        "active_tasks": sum(active for active, _ in loads),
        "free": sum(max(0, capacity - active) for active, capacity in loads),
        "single": len(healthy) == 1,
        "mismatch": any(mismatch.capability == name for mismatch in index.contracts.mismatches()),
        "offered_by": sorted(record.key for record in records)[:_MAX_LISTED],
    }


def _description(records: list[NodeRecord], name: str) -> str:
    for record in sorted(records, key=lambda one: (not one.healthy, one.key)):
        capability = record.passport.capability(name)
        if capability is not None and capability.description:
            return capability.description
    return ""
