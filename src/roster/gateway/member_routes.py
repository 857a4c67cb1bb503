"""Routes by which programs in any language are nodes: register, heartbeat, take commands, answer them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Body, Header, Path, Query, Request
from pydantic import BaseModel, Field, model_validator
from starlette.responses import Response

from roster._clock import boottime
from roster.errors import Code
from roster.gateway.common import ERRORS, JSON
from roster.gateway.encoding import encode
from roster.gateway.member import Member
from roster.gateway.members import DEFAULT_TTL, MAX_TTL, MIN_TTL, check_own
from roster.gateway.nodes import PathName, PathNamespace
from roster.gateway.schemas import NodeShape, Shape
from roster.gateway.streaming import COMMENT, EventStream, event
from roster.gateway.views import moment

if TYPE_CHECKING:
    from roster.gateway.core import Gateway

_KEEP_ALIVE = 15.0
_MAX_CONDITIONS = 16
Uid = Annotated[str, Field(min_length=1, max_length=100)]
UidQuery = Annotated[
    str, Query(min_length=1, max_length=100, description="The incarnation, as given when it registered.")
]
CommandId = Annotated[str, Path(min_length=1, max_length=300)]
_PASSPORT = {
    "apiVersion": "ai-team.dev/v1",
    "kind": "NodePassport",
    "metadata": {"name": "counter-001", "namespace": "ai-team"},
    "spec": {"type": "agent", "version": "1.0.0", "capabilities": [{"name": "count_words"}]},
}


class Registered(BaseModel):
    """A node over HTTP."""

    node: NodeShape
    uid: str = Field(description="The fence: send it with every request.")
    ttl: float = Field(description="Seconds that the node lives after the last request.")
    heartbeat: float = Field(description="How often to be heard of, seconds.")


class ConditionBody(Shape):
    """A condition, as in Kubernetes; without a status it is taken away."""

    type: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9./-]{0,99}$")]
    status: Literal["True", "False", "Unknown"] | None
    reason: Annotated[str, Field(max_length=200)] = ""
    message: Annotated[str, Field(max_length=1000)] = ""


class Heartbeat(Shape):
    """A sign of life."""

    uid: Uid
    state: Literal["ready", "draining"] | None = None
    conditions: Annotated[list[ConditionBody], Field(max_length=_MAX_CONDITIONS)] = Field(
        default_factory=list
    )


class Beaten(BaseModel):
    """How the node stands."""

    uid: str
    ttl: float
    state: str
    active_tasks: int


class Command(BaseModel):
    """Something that the program should know."""

    seq: int
    type: Literal["command", "cancel", "control"]
    id: str | None = None
    capability: str | None = None
    params: dict[str, Any] | None = None
    timeout: float | None = None


class Commands(BaseModel):
    """What there is for the program."""

    items: list[Command]
    after: int = Field(description="What to send as `after` the next time.")


class Progress(Shape):
    """How far a command is."""

    uid: Uid
    data: dict[str, Any]


class ErrorBody(Shape):
    """Why there is no result."""

    message: Annotated[str, Field(max_length=16_000)]
    code: Code = Code.UNKNOWN
    retryable: bool = False
    details: dict[str, Any] = Field(default_factory=dict)


class Answer(Shape):
    """A result or an error."""

    uid: Uid
    result: Any = None
    error: ErrorBody | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Answer:
        if ("result" in self.model_fields_set) == (self.error is not None):
            raise ValueError("give either result or error")
        return self


def router(gateway: Gateway) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api/v1", tags=["nodes over HTTP"])
    own = "/nodes/{namespace}/{name}"

    def need(request: Request, namespace: str, name: str, uid: str) -> Member:
        check_own(request.state.principal, f"{namespace}/{name}")
        return gateway.members.need(f"{namespace}/{name}", uid)

    @routes.post(
        "/nodes",
        status_code=201,
        response_model=Registered,
        responses=ERRORS(404, 409, 415),
        summary="Register a node",
    )
    async def register(
        request: Request,
        passport: Annotated[dict[str, Any], Body(examples=[_PASSPORT], description="The passport.")],
        ttl: Annotated[float, Query(ge=MIN_TTL, le=MAX_TTL)] = DEFAULT_TTL,
        takeover: Annotated[bool, Query(description="Replace a live holder of the name.")] = False,
    ) -> Response:
        """Register a node whose program is reached by requests of its own."""
        gateway.need_ready()
        member = await gateway.members.register(passport, request.state.principal, ttl=ttl, takeover=takeover)
        await gateway.shown(member.key, lambda now: now.uid == member.uid and now.state != "starting")
        record = await gateway.registry.get(member.key)
        view = gateway.views.of(record, encode(moment(gateway.staleness)))
        rest = encode({"uid": member.uid, "ttl": member.ttl, "heartbeat": round(member.ttl / 3, 3)})
        return Response(
            b'{"node":' + view + b"," + rest[1:],
            201,
            media_type=JSON,
            headers={"location": f"/api/v1/nodes/{member.key}"},
        )

    @routes.post(
        f"{own}/heartbeat",
        response_model=Beaten,
        responses=ERRORS(404, 409, 415),
        summary="Show a sign of life",
    )
    async def heartbeat(
        request: Request, namespace: PathNamespace, name: PathName, body: Heartbeat
    ) -> Response:
        """Say that the program lives, and what it says of itself."""
        member = need(request, namespace, name, body.uid)
        if body.state is not None:
            member.say(body.state)
        for one in body.conditions:
            member.registration.set_condition(one.type, one.status, one.reason, one.message)
        found = {
            "uid": member.uid,
            "ttl": member.ttl,
            "state": member.registration.state,
            "active_tasks": member.engine.hands.active,
        }
        return Response(encode(found), media_type=JSON, headers={"cache-control": "no-store"})

    @routes.get(
        f"{own}/commands", response_model=Commands, responses=ERRORS(404, 409), summary="Take commands"
    )
    async def commands(
        request: Request,
        namespace: PathNamespace,
        name: PathName,
        uid: UidQuery,
        after: Annotated[
            int, Query(ge=0, le=2**53, description="The place up to which everything has arrived.")
        ] = 0,
        wait: Annotated[
            float, Query(ge=0, le=60, description="Seconds to wait for something; at most half of the TTL.")
        ] = 0.0,
    ) -> Response:
        """What is behind a place; commands that are not over are given again to who asks with a smaller one."""
        member = need(request, namespace, name, uid)
        items = member.items(after)
        if not items and wait > 0:
            async with gateway.counting():
                until = boottime() + min(wait, member.ttl / 2)
                while not (items or member.ended or gateway.leaving) and (left := until - boottime()) > 0:
                    await member.wait(left)
                    items = member.items(after)
        member = need(request, namespace, name, uid)
        place = max([after, *(item["seq"] for item in items)])
        return Response(
            encode({"items": items, "after": place}), media_type=JSON, headers={"cache-control": "no-store"}
        )

    @routes.get(
        f"{own}/commands/stream",
        responses={
            200: {
                "description": "Server-sent events: `command`, `cancel`, `control`.",
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
            },
            **ERRORS(404, 409),
        },
        response_class=Response,
        summary="Take commands as they come",
    )
    async def stream(
        request: Request,
        namespace: PathNamespace,
        name: PathName,
        uid: UidQuery,
        after: Annotated[int, Query(ge=0, le=2**53)] = 0,
        last_event_id: Annotated[str | None, Header(max_length=20, pattern=r"^\d{1,16}$")] = None,
    ) -> Response:
        """The same as server-sent events. The stream is no sign of life: send heartbeats beside it."""
        member = need(request, namespace, name, uid)
        gateway.allow_stream()
        place = int(last_event_id) if last_event_id is not None else after
        still = gateway.still_allowed(request)
        return EventStream(gateway.counted(_follow(member, place, still)))

    @routes.post(
        f"{own}/commands/{{id}}/progress",
        status_code=204,
        response_class=Response,
        responses=ERRORS(404, 409, 410, 415),
        summary="Say how far a command is",
    )
    async def progress(
        request: Request, namespace: PathNamespace, name: PathName, id: CommandId, body: Progress
    ) -> Response:
        """Tell the caller how far it is."""
        need(request, namespace, name, body.uid).progress(id, body.data)
        return Response(status_code=204)

    @routes.post(
        f"{own}/commands/{{id}}/result",
        status_code=204,
        response_class=Response,
        responses=ERRORS(404, 409, 410, 415),
        summary="Answer a command",
    )
    async def result(
        request: Request, namespace: PathNamespace, name: PathName, id: CommandId, body: Answer
    ) -> Response:
        """Answer a command with a result, held against the output schema, or with an error."""
        member = need(request, namespace, name, body.uid)
        if body.error is None:
            member.result(id, body.result)
        else:
            member.error(id, body.error.model_dump(mode="json"))
        return Response(status_code=204)

    return routes


async def _follow(member: Member, place: int, still: Callable[[], bool]) -> AsyncIterator[bytes]:
    yield COMMENT
    while still():
        items = member.items(place)
        for item in items:
            place = max(place, item["seq"])
            yield event(item["type"], encode(item), str(item["seq"]))
        if member.ended:
            return
        if not items:
            before = boottime()
            await member.wait(_KEEP_ALIVE)
            if boottime() - before >= _KEEP_ALIVE:
                yield COMMENT
