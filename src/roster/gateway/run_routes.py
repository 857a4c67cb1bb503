"""Routes that begin runs of process cards, show them, and say to them what people say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from roster.gateway.common import ERRORS, JSON
from roster.gateway.encoding import encode
from roster.gateway.nodes import Page
from roster.gateway.paging import page_token, read_page
from roster.gateway.problems import Problem
from roster.gateway.schemas import Shape

if TYPE_CHECKING:
    from roster.gateway.core import Gateway
    from roster.orchestrator.runs.runs import Runs

T = TypeVar("T")

_SECONDS = 30.0
RunState = Literal["pending", "running", "waiting", "paused", "succeeded", "failed", "cancelled", "dead"]
RunId = Annotated[str, Path(max_length=100, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?$")]
Step = Annotated[str | None, Field(max_length=1000, description="Its key; null where one step waits.")]
Comment = Annotated[str, Field(max_length=4000)]


class RunBody(Shape):
    """A run to begin."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "card": {
                        "name": "article",
                        "steps": [
                            {"id": "write", "action": "write_article", "params": {"topic": "${input.topic}"}}
                        ],
                    },
                    "inputs": {"topic": "bees"},
                }
            ]
        },
    )

    card: dict[str, Any] | Annotated[str, Field(min_length=1, max_length=1_000_000)] = Field(
        description="The card's document, or its YAML text. Never a path: files are the orchestrator's own."
    )
    inputs: dict[str, Any] = Field(default_factory=dict)
    run_id: Annotated[
        str | None,
        Field(max_length=100, description="The same id with the same card and inputs is the same run."),
    ] = None
    no_nodes: Literal["wait", "fail"] = "wait"
    detach: bool = Field(False, description="Leave it to another orchestrator (`roster orchestrate`).")


class Cancel(Shape):
    """Why a run is to end."""

    reason: Comment = ""


class Decision(Shape):
    """What a person says to a run that waits for one."""

    step: Step = None
    comment: Comment = ""
    data: Any = None


class Signal(Shape):
    """An event for a run."""

    event: Annotated[str, Field(min_length=1, max_length=200)]
    data: Any = None


class StepShape(BaseModel):
    """One visit of one step."""

    key: str
    id: str
    visit: int
    kind: str
    action: str | None
    state: str
    node: str | None
    attempts: list[dict[str, Any]]
    dispatched_at: str | None
    ended_at: str | None
    redispatched: int
    error: dict[str, Any] | None
    waiting: dict[str, Any] | None
    parent: str | None


class RunShape(BaseModel):
    """One run; see docs/runs.md."""

    id: str
    card: str
    card_version: str | None
    digest: str
    state: RunState
    inputs: dict[str, Any]
    result: Any
    error: dict[str, Any] | None
    created_at: str | None
    started_at: str | None
    ended_at: str | None
    last_progress_at: str | None
    executor: str | None
    recoveries: int
    waiting: dict[str, Any] | None
    steps: list[StepShape]


class RunList(BaseModel):
    """Runs, the youngest first, without their steps."""

    items: list[RunShape]
    next: str | None


def router(gateway: Gateway) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api/v1", tags=["runs"])
    headers = {"cache-control": "no-store"}

    def runs() -> Runs:
        return need_runs(gateway)

    async def shown(run: str, status: int = 200, **more: str) -> Response:
        record = await soon(runs().get(run))
        return Response(encode(record.to_dict()), status, media_type=JSON, headers={**headers, **more})

    @routes.get("/runs", response_model=RunList, responses=ERRORS(404, 501), summary="List runs")
    async def list_runs(
        state: Annotated[list[RunState] | None, Query(description="Only these states.")] = None,
        card: Annotated[
            str | None, Query(max_length=200, description="Only runs of the card of this name.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
        page: Page = None,
    ) -> Response:
        """Runs, the youngest first, without their steps."""
        before, _ = read_page(page)
        found = await soon(runs().list(states=tuple(state or ()), card=card, limit=limit + 1, before=before))
        items = [record.to_dict() for record in found[:limit]]
        token = page_token(items[-1]["id"], "") if len(found) > limit else None
        return Response(encode({"items": items, "next": token}), media_type=JSON, headers=headers)

    @routes.post(
        "/runs",
        status_code=201,
        response_model=RunShape,
        responses=ERRORS(404, 409, 415, 501),
        summary="Begin a run",
    )
    async def begin_run(body: RunBody) -> Response:
        """Begin a run: it is on the disk when this answers, and whichever orchestrator lives finishes it."""
        from roster.cards import ProcessCard

        # Text is a card, never the name of a file of this machine.
        card = (
            await asyncio.to_thread(ProcessCard.parse, body.card, source="card")
            if isinstance(body.card, str)
            else body.card
        )
        run = await soon(
            runs().start(card, body.inputs, run_id=body.run_id, no_nodes=body.no_nodes, detach=body.detach)
        )
        return await shown(run, 201, location=f"/api/v1/runs/{run}")

    @routes.get("/runs/{id}", response_model=RunShape, responses=ERRORS(404, 501), summary="Get a run")
    async def get_run(id: RunId) -> Response:
        """A run with its steps."""
        return await shown(id)

    @routes.post(
        "/runs/{id}/cancel",
        response_model=RunShape,
        responses=ERRORS(404, 409, 415, 501),
        summary="Cancel a run",
    )
    async def cancel(id: RunId, body: Cancel) -> Response:
        """End a run; what nodes do for it is stopped."""
        await soon(runs().cancel(id, body.reason))
        return await shown(id)

    @routes.post(
        "/runs/{id}/approve", response_model=RunShape, responses=ERRORS(404, 409, 415, 501), summary="Say yes"
    )
    async def approve(request: Request, id: RunId, body: Decision) -> Response:
        """Say yes to a run that waits for a person: at a checkpoint, or after a failure, where the step is tried again."""
        by = request.state.principal.name
        await soon(runs().approve(id, body.step, by=by, comment=body.comment, data=body.data))
        return await shown(id)

    @routes.post(
        "/runs/{id}/reject", response_model=RunShape, responses=ERRORS(404, 409, 415, 501), summary="Say no"
    )
    async def reject(request: Request, id: RunId, body: Decision) -> Response:
        """Say no to a run that waits for a person: it fails."""
        by = request.state.principal.name
        await soon(runs().reject(id, body.step, by=by, comment=body.comment, data=body.data))
        return await shown(id)

    @routes.post(
        "/runs/{id}/signal",
        response_model=RunShape,
        responses=ERRORS(404, 409, 415, 501),
        summary="Send an event",
    )
    async def signal(id: RunId, body: Signal) -> Response:
        """Send a run the event that it waits for, or will wait for."""
        await soon(runs().signal(id, body.event, body.data))
        return await shown(id)

    @routes.post(
        "/runs/{id}/pause", response_model=RunShape, responses=ERRORS(404, 409, 501), summary="Pause a run"
    )
    async def pause(id: RunId) -> Response:
        """Have a run stand still before its next step."""
        await soon(runs().pause(id))
        return await shown(id)

    @routes.post(
        "/runs/{id}/resume", response_model=RunShape, responses=ERRORS(404, 409, 501), summary="Resume a run"
    )
    async def resume(id: RunId) -> Response:
        """Let a run go on: one that was paused, or one that was given up (`dead`)."""
        await soon(runs().resume(id))
        return await shown(id)

    return routes


def need_runs(gateway: Gateway) -> Runs:
    """Return the runs.

    Raises:
        Problem: what they need is not installed.
    """
    if find_spec("dbos") is None:
        raise Problem(
            501,
            "not-installed",
            "runs need a package that is not installed here: pip install 'agent-roster[runs]'",
        )
    gateway.runs_used()
    return gateway.orchestrator.runs


async def soon(work: Awaitable[T]) -> T:
    """Wait for the database, and not for ever."""
    try:
        async with asyncio.timeout(_SECONDS):
            return await work
    except TimeoutError:
        raise Problem(
            503,
            "runs-unavailable",
            f"the database of runs did not answer within {_SECONDS:g} s",
            headers={"retry-after": "5"},
        ) from None
