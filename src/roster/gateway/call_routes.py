"""Routes that have work done: at once, or to be asked after."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from roster.gateway.common import ERRORS, JSON
from roster.gateway.encoding import encode
from roster.gateway.nodes import Limit, Page
from roster.gateway.paging import cut, page_token, read_page
from roster.gateway.problems import attempts_of
from roster.gateway.schemas import NAME, Shape

if TYPE_CHECKING:
    from roster.gateway.core import Gateway

_POLL = 60.0
CallId = Annotated[str, Path(max_length=100, pattern=r"^[A-Za-z0-9-]+$")]


class CallBody(Shape):
    """What is to be done."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"capability": "write_article", "params": {"topic": "bees"}, "timeout": 30}]
        },
    )

    capability: Annotated[str, Field(min_length=1, max_length=253)]
    params: dict[str, Any] = Field(
        default_factory=dict, description="Its input, held against the input schema first."
    )
    timeout: Annotated[float, Field(gt=0, le=86400, description="Seconds for everything.")] = 30.0
    selector: Annotated[str | None, Field(max_length=1000)] = None
    version: Annotated[str | None, Field(max_length=200, examples=[">=1,<2"])] = None
    namespace: Annotated[str | None, Field(pattern=NAME, max_length=63)] = None
    strategy: Literal["least_loaded", "round_robin", "random", "sticky"] | None = None
    sticky_key: Annotated[str | None, Field(max_length=255)] = None
    priority: Annotated[int, Field(ge=0, le=9)] = 0
    on_busy: Literal["wait", "fail"] = "wait"
    idempotency_key: Annotated[str | None, Field(min_length=1, max_length=255)] = None
    wait_for_node: bool = Field(False, description="Wait for a node up to the deadline where there is none.")
    mode: Literal["sync", "async"] = "sync"


class AttemptShape(BaseModel):
    """One try."""

    node: str
    started: float
    duration: float
    error: str
    code: str | None
    outcome: str | None


class CallResult(BaseModel):
    """A result, and how it came about."""

    result: Any
    node: str
    attempts: list[AttemptShape]
    duration: float


class CallShape(BaseModel):
    """A call that is asked after."""

    id: str
    capability: str
    state: Literal["running", "succeeded", "failed", "cancelled"]
    created_at: str
    ended_at: str | None
    result: Any
    node: str | None
    attempts: list[AttemptShape]
    duration: float | None
    error: dict[str, Any] | None = Field(description="A problem document.")


class CallList(BaseModel):
    """The calls that are kept, newest first."""

    items: list[CallShape]
    total: int
    next: str | None


def router(gateway: Gateway) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api/v1", tags=["calls"])
    calls = gateway.calls

    @routes.post(
        "/call",
        response_model=CallResult,
        responses={**ERRORS(404, 409, 502, 504), 202: {"model": CallShape, "description": "It has begun."}},
        summary="Call a capability",
    )
    async def call(
        request: Request,
        body: CallBody,
        prefer: Annotated[str | None, Header(max_length=200)] = None,
        idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
    ) -> Response:
        """Have one node do it, with failover; `mode: async` (or `Prefer: respond-async`) answers at once."""
        options = body.model_dump(exclude={"capability", "params", "mode"})
        options["idempotency_key"] = body.idempotency_key or idempotency_key
        asked = [part.strip().lower() for part in (prefer or "").split(",")]
        if body.mode == "async" or "respond-async" in asked:
            kept = calls.begin(request.state.principal.digest, body.capability, body.params, **options)
            return Response(
                encode(kept.document()),
                202,
                media_type=JSON,
                headers={"location": f"/api/v1/calls/{kept.id}"},
            )
        answer = await _unless_gone(request, calls.call(body.capability, body.params, **options))
        found = {
            "result": answer.result,
            "node": answer.node,
            "attempts": attempts_of(answer.attempts),
            "duration": round(answer.duration, 6),
        }
        return Response(encode(found), media_type=JSON, headers={"cache-control": "no-store"})

    @routes.get("/calls", response_model=CallList, responses=ERRORS(), summary="List calls")
    async def list_calls(request: Request, limit: Limit = 100, page: Page = None) -> Response:
        """The asynchronous calls that are kept, newest first."""
        after, _ = read_page(page)
        found = calls.all(_owner(request))
        order = {kept.id: f"{number:08}" for number, kept in enumerate(found)}
        # By the id of the last one seen: newer calls do not shift the pages.
        items, more = cut(found, lambda kept: order[kept.id], order.get(after or ""), limit)
        token = page_token(items[-1].id, "") if more else None
        body = {"items": [kept.document() for kept in items], "total": len(found), "next": token}
        return Response(encode(body), media_type=JSON, headers={"cache-control": "no-store"})

    @routes.get("/calls/{id}", response_model=CallShape, responses=ERRORS(404), summary="Get a call")
    async def get_call(
        request: Request,
        id: CallId,
        wait: Annotated[float, Query(ge=0, le=_POLL, description="Seconds to wait for its end.")] = 0.0,
    ) -> Response:
        """How a call stands."""
        kept = calls.find(id, _owner(request))
        if wait and not kept.over.is_set():
            async with gateway.counting():
                await gateway.until(kept.over, wait)
        return Response(encode(kept.document()), media_type=JSON, headers={"cache-control": "no-store"})

    @routes.delete("/calls/{id}", response_model=CallShape, responses=ERRORS(404), summary="Cancel a call")
    async def cancel_call(request: Request, id: CallId) -> Response:
        """Cancel a call; its command is taken back. One that is over stays as it is."""
        kept = calls.find(id, _owner(request))
        await calls.cancel(kept)
        return Response(encode(kept.document()), media_type=JSON, headers={"cache-control": "no-store"})

    return routes


def _owner(request: Request) -> str | None:
    """Return whose calls may be seen: a node sees its own alone."""
    principal = request.state.principal
    return principal.digest if principal.role == "node" else None


async def _unless_gone(request: Request, work: Any) -> Any:
    """Do the work unless whoever asked goes away: then its command is taken back."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait({working})
    return await working


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
