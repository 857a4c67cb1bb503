"""Routes that answer who can, who would, why not, and how much there is to do."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import parse_qsl

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from roster.gateway.capabilities import PathCapability
from roster.gateway.common import ERRORS, JSON, page_of
from roster.gateway.demand import availability, demand
from roster.gateway.encoding import encode
from roster.gateway.nodes import Limit, Namespace, Page, Select
from roster.gateway.paging import cut, page_token, read_page
from roster.gateway.problems import Problem
from roster.gateway.schemas import NodeList, NodeShape
from roster.gateway.views import moment
from roster.passport.fields import is_dns_label

if TYPE_CHECKING:
    from roster.gateway.core import Gateway

MAX_STALENESS = 60.0
Wanted = Annotated[str, Query(min_length=1, max_length=253, examples=["write_article"])]
Version = Annotated[str | None, Query(max_length=200, examples=[">=1.2,<2"])]


class Picked(BaseModel):
    """Where a call would go."""

    node: NodeShape


class Reason(BaseModel):
    """Why a node would be chosen, or not."""

    node: str
    reason: str
    state: str
    load: float | None
    candidate: bool


class Reasons(BaseModel):
    """Every node that has the capability, with exactly one reason each."""

    items: list[Reason]


class Availability(BaseModel):
    """Whether the team can take work now."""

    capability: str
    state: Literal["available", "busy", "unavailable", "unknown"]
    free: int = Field(description="How many tasks would be taken at once.")
    healthy: int
    retry_after: float | None = Field(description="Seconds, when busy.")


class Demand(BaseModel):
    """How much work there is."""

    capability: str
    queued: int
    running: int
    waiting_for_node: int
    total: int
    capacity: int
    healthy: int
    staleness: float


async def look_up(
    gateway: Gateway,
    request: Request,
    capability: str,
    namespace: str | None = None,
    selector: str | None = None,
    version: str | None = None,
    healthy: bool | None = True,
    limit: int = 500,
    page: str | None = None,
) -> Response:
    """Answer `find`."""
    after, resume = read_page(page)
    found = await gateway.registry.find(
        capability=capability, selector=selector, namespace=namespace, version=version, healthy=healthy
    )
    items, more = cut(found, lambda record: f"{record.namespace}\0{record.name}", after, limit)
    staleness = gateway.staleness
    resume = resume or gateway.feed.place
    token = page_token(f"{items[-1].namespace}\0{items[-1].name}", resume) if more else None
    now = encode(moment(staleness))
    tail = encode({"total": len(found), "next": token, "resume": resume, "staleness": round(staleness, 3)})
    body = b'{"items":[' + b",".join([gateway.views.of(one, now) for one in items]) + b"]," + tail[1:]
    return Response(body, media_type=JSON, headers={"link": page_of(request, token)} if token else None)


@lru_cache(maxsize=1024)
def plain_query(query: bytes) -> tuple[str, str | None] | None:
    """Return capability and namespace of a query string that has nothing else; None where the route must look."""
    try:
        given = parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=2, errors="strict")
    except ValueError:
        return None
    fields = dict(given)
    capability, namespace = fields.pop("capability", ""), fields.pop("namespace", None)
    if fields or len(given) != 1 + (namespace is not None) or not 1 <= len(capability) <= 253:
        return None
    if namespace is not None and not is_dns_label(namespace):
        return None
    return capability, namespace


def router(gateway: Gateway) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api/v1", tags=["lookups"])

    @routes.get("/find", response_model=NodeList, responses=ERRORS(), summary="Find nodes by capability")
    async def find(
        request: Request,
        capability: Wanted,
        namespace: Namespace = None,
        selector: Select = None,
        version: Version = None,
        healthy: Annotated[Literal["true", "any"], Query(description="`any`: in whatever state.")] = "true",
        limit: Limit = 500,
        page: Page = None,
    ) -> Response:
        """The nodes that offer a capability, ready and busy ones alone unless asked otherwise. Answered from memory."""
        wanted = True if healthy == "true" else None
        return await look_up(gateway, request, capability, namespace, selector, version, wanted, limit, page)

    @routes.get(
        "/pick", response_model=Picked, responses=ERRORS(404), summary="Pick the node that a call would go to"
    )
    async def pick(
        capability: Wanted,
        namespace: Namespace = None,
        selector: Select = None,
        version: Version = None,
        strategy: Annotated[
            Literal["least_loaded", "round_robin", "random", "sticky"] | None, Query()
        ] = None,
        sticky_key: Annotated[str | None, Query(max_length=255)] = None,
    ) -> Response:
        """Where a call would go now. Nothing is sent, nothing is counted."""
        record = await gateway.orchestrator.pick(
            capability,
            selector=selector,
            version=version,
            namespace=namespace,
            strategy=strategy,
            sticky_key=sticky_key,
        )
        now = encode(moment(gateway.staleness))
        return Response(b'{"node":' + gateway.views.of(record, now) + b"}", media_type=JSON)

    @routes.get("/explain", response_model=Reasons, responses=ERRORS(), summary="Say why, of each node")
    async def explain(
        capability: Wanted, namespace: Namespace = None, selector: Select = None, version: Version = None
    ) -> Response:
        """Every node that has the capability, with exactly one reason why it would be chosen or not."""
        rows = await gateway.orchestrator.explain(
            capability, selector=selector, version=version, namespace=namespace
        )
        items: list[dict[str, Any]] = [
            {
                "node": row.node,
                "reason": row.reason,
                "state": row.state,
                "load": row.load if row.load is None or row.load < 1e9 else None,
                "candidate": row.candidate,
            }
            for row in rows
        ]
        return Response(encode({"items": items}), media_type=JSON)

    @routes.get(
        "/capabilities/{capability}/availability",
        response_model=Availability,
        responses=ERRORS(),
        summary="Is there room?",
    )
    async def get_availability(capability: PathCapability, namespace: Namespace = None) -> Response:
        """Whether the team can take work for it now, how much, and when to ask again."""
        await gateway.orchestrator.start()
        found = availability(gateway, capability, namespace)
        headers = {"cache-control": "no-store"}
        if found["retry_after"] is not None:
            headers["retry-after"] = str(max(1, round(found["retry_after"])))
        return Response(encode(found), media_type=JSON, headers=headers)

    @routes.get(
        "/capabilities/{capability}/demand",
        response_model=Demand,
        responses=ERRORS(),
        summary="How much is there to do?",
    )
    async def get_demand(capability: PathCapability, namespace: Namespace = None) -> Response:
        """What an autoscaler needs: it is not 0 while a node that offers it is busy."""
        await gateway.orchestrator.start()
        if gateway.staleness > MAX_STALENESS:
            raise Problem(
                503,
                "store-unavailable",
                f"the registry was last seen {gateway.staleness:.0f} s ago: numbers of then would mislead",
                headers={"retry-after": "5"},
            )
        found = demand(gateway, capability, namespace)
        return Response(encode(found), media_type=JSON, headers={"cache-control": "no-store"})

    return routes
