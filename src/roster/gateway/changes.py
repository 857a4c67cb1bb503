"""Routes that change nodes: drain, labels, delete; and what is known of their past."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from roster.bus import Message
from roster.errors import CallError
from roster.gateway.common import ERRORS, JSON
from roster.gateway.encoding import encode, matches_tag
from roster.gateway.members import check_labels, check_own
from roster.gateway.nodes import PathName, PathNamespace, node_tag
from roster.gateway.problems import Problem
from roster.gateway.schemas import NodeDocument, NodeShape, Shape
from roster.gateway.views import moment
from roster.registry import NodeRecord

if TYPE_CHECKING:
    from roster.gateway.core import Gateway

_CONFIRM = 5.0
Pairs = dict[Annotated[str, Field(max_length=317)], Annotated[str, Field(max_length=1000)] | None]


class MetadataPatch(Shape):
    """Labels and annotations to set; null takes one away."""

    labels: Annotated[Pairs | None, Field(max_length=100, examples=[{"tier": "b", "old": None}])] = None
    annotations: Annotated[Pairs | None, Field(max_length=100)] = None


class NodePatch(Shape):
    """A JSON merge patch (RFC 7396) of what may be changed."""

    metadata: MetadataPatch


class Drained(BaseModel):
    """What became of draining a node."""

    node: NodeShape
    told: bool = Field(description="Whether the node itself has confirmed; callers pass it over in any case.")


class History(BaseModel):
    """What this gateway has seen of a node, newest first."""

    key: str
    states: list[dict[str, Any]]
    tasks: list[dict[str, Any]]
    events: list[dict[str, Any]]


def router(gateway: Gateway) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api/v1/nodes/{namespace}/{name}", tags=["nodes"])

    @routes.get("/history", response_model=History, responses=ERRORS(), summary="Get a node's past")
    async def get_history(namespace: PathNamespace, name: PathName) -> Response:
        """Its last states, tasks and events, as far as this gateway has seen them."""
        found = gateway.history.of(f"{namespace}/{name}")
        return Response(encode(found), media_type=JSON, headers={"cache-control": "no-store"})

    @routes.patch(
        "", response_model=NodeDocument, responses=ERRORS(404, 409, 412, 415), summary="Change labels"
    )
    async def patch_node(
        request: Request,
        namespace: PathNamespace,
        name: PathName,
        patch: NodePatch,
        if_match: Annotated[str | None, Header(max_length=1000)] = None,
    ) -> Response:
        """Change labels and annotations of a node over HTTP: a JSON merge patch."""
        key = f"{namespace}/{name}"
        principal = request.state.principal
        check_own(principal, key)
        labels, annotations = patch.metadata.labels, patch.metadata.annotations
        check_labels(principal, labels or {})
        record = await gateway.registry.get(name, namespace)
        _need_match(record, if_match)
        member = gateway.members.get(key)
        if member is None or member.ended:
            raise Problem(
                409,
                "conflict",
                f"{key} is not a node over HTTP at this gateway: its own process declares its labels, and would write them "
                "back; change its passport, or use node.update() in its program",
            )
        passport = member.registration.passport
        await member.registration.update(
            labels=None if labels is None else _merged(passport.labels, labels),
            annotations=None if annotations is None else _merged(passport.annotations, annotations),
        )
        await gateway.shown(key, lambda now: now.generation >= member.registration.passport.generation)
        now = gateway.registry.informer.get(key) or record
        return Response(encode(now.document()), media_type=JSON, headers={"etag": node_tag(now)})

    async def mark(request: Request, namespace: str, name: str, signal: str) -> Response:
        key = f"{namespace}/{name}"
        check_own(request.state.principal, key)
        record = await gateway.registry.get(name, namespace)
        await (gateway.registry.drain if signal == "drain" else gateway.registry.undrain)(name, namespace)
        told = await _tell(record, signal)
        await gateway.shown(key, lambda now: _shows(now, signal == "drain", told))
        now = gateway.registry.informer.get(key) or record
        view = gateway.views.of(now, encode(moment(gateway.staleness)))
        return Response(b'{"node":' + view + b',"told":' + encode(told) + b"}", media_type=JSON)

    async def _tell(record: NodeRecord, signal: str) -> bool:
        """Tell the node itself; return whether it has confirmed."""
        if record.state == "offline":
            return False
        message = Message.control(
            signal, {}, source=gateway.orchestrator.team.source, timeout=_CONFIRM, uid=record.uid
        )
        try:
            exchange = await gateway.orchestrator.bus.send(record.mindbus_queue, message)
            return await gateway.answered(exchange, _CONFIRM)
        except CallError:
            return False

    @routes.post(
        "/drain", response_model=Drained, responses=ERRORS(404, 409), summary="Give a node no new work"
    )
    async def drain(request: Request, namespace: PathNamespace, name: PathName) -> Response:
        """No new work for it; what it runs it finishes. It stays so through restarts, until `undrain`."""
        return await mark(request, namespace, name, "drain")

    @routes.post("/undrain", response_model=Drained, responses=ERRORS(404, 409), summary="Give it work again")
    async def undrain(request: Request, namespace: PathNamespace, name: PathName) -> Response:
        """Take the mark of `drain` away."""
        return await mark(request, namespace, name, "undrain")

    @routes.delete(
        "", status_code=204, response_class=Response, responses=ERRORS(404, 409, 412), summary="Delete a node"
    )
    async def delete_node(
        request: Request,
        namespace: PathNamespace,
        name: PathName,
        force: Annotated[bool, Query(description="Also one that lives.")] = False,
        if_match: Annotated[str | None, Header(max_length=1000)] = None,
    ) -> Response:
        """Remove a node. A node over HTTP leaves; another one that lives is removed by force alone."""
        key = f"{namespace}/{name}"
        principal = request.state.principal
        check_own(principal, key)
        record = await gateway.registry.get(name, namespace)
        _need_match(record, if_match)
        if not await gateway.members.remove(key):
            if principal.role == "node" and record.state != "offline":
                raise Problem(
                    403, "forbidden", f"{key} is no node over HTTP here: {principal.name} may not end it"
                )
            await gateway.registry.delete(name, namespace, force=force)
        await gateway.shown(key, None)
        return Response(status_code=204)

    return routes


def _shows(record: NodeRecord, drained: bool, told: bool) -> bool:
    """Return whether a node shows the mark, and its own word where it has confirmed."""
    said = record.status if told else None
    return record.cordoned is drained and (said is None or (said.state == "draining") is drained)


def _need_match(record: NodeRecord, if_match: str | None) -> None:
    if if_match is not None and not matches_tag(if_match, node_tag(record)):
        raise Problem(412, "changed", f"{record.key} has changed since it was read: read it again")


def _merged(now: Any, patch: Pairs) -> dict[str, str]:
    merged = {**now, **patch}
    return {key: value for key, value in merged.items() if value is not None}
