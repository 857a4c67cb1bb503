"""Routes that show nodes: the list, one of them, and what happens to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Header, Path, Query, Request
from starlette.responses import Response

from roster.gateway.common import ERRORS, JSON, page_of
from roster.gateway.encoding import encode, matches_tag, tag_of
from roster.gateway.feed import Entry, Feed
from roster.gateway.paging import cut, page_token, read_page
from roster.gateway.schemas import NAME, NodeDocument, NodeList, State
from roster.gateway.streaming import COMMENT, EventStream, event
from roster.gateway.views import moment
from roster.passport import Selector
from roster.passport.writing import to_yaml
from roster.registry import NodeRecord

if TYPE_CHECKING:
    from roster.gateway.core import Gateway

YAML = "application/yaml"
_KEEP_ALIVE = 15.0
_AT_ONCE = 250

Limit = Annotated[int, Query(ge=1, le=1000, description="How many items a page holds.")]
Page = Annotated[str | None, Query(max_length=2000, description="`next` of the page before.")]
Namespace = Annotated[str | None, Query(pattern=NAME, max_length=63, description="Only this namespace.")]
Select = Annotated[
    str | None,
    Query(
        max_length=1000, description="Only nodes whose labels match.", examples=["role=writer,tier in (a,b)"]
    ),
]
Capability = Annotated[str | None, Query(max_length=253, description="Only nodes that offer this now.")]
PathNamespace = Annotated[str, Path(pattern=NAME, max_length=63, examples=["ai-team"])]
PathName = Annotated[str, Path(pattern=NAME, max_length=63, examples=["writer-001"])]


def router(gateway: Gateway) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api/v1", tags=["nodes"])

    @routes.get("/nodes", response_model=NodeList, responses=ERRORS(400, 304), summary="List nodes")
    async def list_nodes(
        request: Request,
        namespace: Namespace = None,
        capability: Capability = None,
        selector: Select = None,
        state: Annotated[list[State] | None, Query(description="Only these states.")] = None,
        type: Annotated[str | None, Query(max_length=63, description="Only this `spec.type`.")] = None,
        version: Annotated[
            str | None,
            Query(max_length=200, description="Only versions in this range.", examples=[">=1.2,<2"]),
        ] = None,
        limit: Limit = 500,
        page: Page = None,
        if_none_match: Annotated[str | None, Header(max_length=1000)] = None,
    ) -> Response:
        """Every node that is registered, reachable or not, by namespace and name.

        To follow the list without a gap: read all pages, then watch from the `resume` of the first one.
        """
        after, resume = read_page(page)
        found = await gateway.registry.find(
            capability=capability,
            selector=selector,
            type=type,
            namespace=namespace,
            version=version,
            state=state,
        )
        feed = gateway.feed
        tag = tag_of(feed.place, request.url.query)
        if matches_tag(if_none_match, tag):
            return Response(status_code=304, headers={"etag": tag})
        # What is between two keys sorts as namespace and name do: `-` and digits come behind "/" nowhere else.
        items, more = cut(found, lambda record: f"{record.namespace}\0{record.name}", after, limit)
        staleness = gateway.staleness
        now = encode(moment(staleness))
        resume = resume or feed.place
        last = items[-1] if items else None
        token = page_token(f"{last.namespace}\0{last.name}", resume) if more and last is not None else None
        tail = encode(
            {"total": len(found), "next": token, "resume": resume, "staleness": round(staleness, 3)}
        )
        body = b'{"items":[' + b",".join(gateway.views.of(one, now) for one in items) + b"]," + tail[1:]
        headers = {"etag": tag, "cache-control": "no-cache"}
        if token is not None:
            headers["link"] = page_of(request, token)
        return Response(body, media_type=JSON, headers=headers)

    @routes.get(
        "/nodes/{namespace}/{name}",
        response_model=NodeDocument,
        responses={
            **ERRORS(404, 304),
            200: {"content": {YAML: {"schema": {"type": "string"}}}, "description": "The passport."},
        },
        summary="Get a node",
    )
    async def get_node(
        request: Request,
        namespace: PathNamespace,
        name: PathName,
        if_none_match: Annotated[str | None, Header(max_length=1000)] = None,
    ) -> Response:
        """The whole passport, with the live status merged in; as YAML with `Accept: application/yaml`."""
        record = await gateway.registry.get(name, namespace)
        as_yaml = YAML in request.headers.get("accept", "").lower()
        tag = tag_of(node_tag(record), YAML) if as_yaml else node_tag(record)
        headers = {"etag": tag, "cache-control": "no-cache", "vary": "accept"}
        if matches_tag(if_none_match, tag):
            return Response(status_code=304, headers=headers)
        if as_yaml:
            # The emitter is Python's own, and a passport may hold 256 KiB.
            text = await asyncio.to_thread(to_yaml, record.document())
            return Response(text.encode(), media_type=YAML, headers=headers)
        return Response(encode(record.document()), media_type=JSON, headers=headers)

    @routes.get(
        "/watch",
        responses={
            200: {
                "description": "Server-sent events: `node`, `synced`, `reset`.",
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
            },
            **ERRORS(400, 503),
        },
        response_class=Response,
        summary="Watch nodes",
    )
    async def watch(
        request: Request,
        namespace: Namespace = None,
        capability: Capability = None,
        selector: Select = None,
        resume: Annotated[
            str | None, Query(max_length=64, description="A place: `resume` of a list.")
        ] = None,
        last_event_id: Annotated[str | None, Header(max_length=64)] = None,
    ) -> Response:
        """What happens to nodes, as server-sent events, from a place on (or beginning with `added` for each node there is).

        After an interruption send the id of the last event as `Last-Event-ID` (browsers do): nothing is missed. If the
        place is not known any more, the stream begins with `reset`, and then as without a place.
        """
        wanted = Selector.parse(selector)

        def matches(record: NodeRecord | None) -> bool:
            return (
                record is not None
                and (namespace is None or record.namespace == namespace)
                and (capability is None or capability in record.capabilities)
                and record.matches(wanted)
            )

        everything = namespace is None and capability is None and wanted.empty
        gateway.allow_stream()
        still = gateway.still_allowed(request)
        return EventStream(
            gateway.counted(follow(gateway, last_event_id or resume, None if everything else matches, still))
        )

    return routes


def node_tag(record: NodeRecord) -> str:
    """Return the tag of a node: of everything in its document but the moment at which it was last seen."""
    return tag_of(
        record.uid, record.generation, record.revision, record.state, record.cordoned, record.conditions
    )


async def follow(
    gateway: Gateway,
    place: str | None,
    matches: Callable[[NodeRecord | None], bool] | None,
    still: Callable[[], bool],
) -> AsyncIterator[bytes]:
    """Yield events from a place on, in pieces that hold several."""
    feed = gateway.feed
    seq = feed.read_place(place) if place else None
    while True:
        if seq is None:
            if place:
                yield event(
                    "reset",
                    encode(
                        {"reason": "the place is not known any more: what follows is everything there is"}
                    ),
                )
            place = "lost"  # whenever it comes to that again, the reader must be told
            seq = feed.seq
            async for piece in _everything(gateway, feed, matches):
                yield piece
            yield event("synced", encode({"staleness": round(gateway.staleness, 3)}), f"{feed.epoch}.{seq}")
        entries = feed.since(seq, _AT_ONCE)
        if entries is None:
            seq = None
            continue
        if entries:
            seq = entries[-1].seq
            piece = b"".join(_written(feed, entry, matches) for entry in entries)
            if piece:
                yield piece
        elif feed.closed or not still():
            return
        elif not await feed.wait(seq, _KEEP_ALIVE):
            # With the place, so that a reader whose nodes are quiet does not fall behind what is kept.
            yield event("bookmark", b"{}", f"{feed.epoch}.{seq}") if still() else COMMENT


async def _everything(
    gateway: Gateway, feed: Feed, matches: Callable[[NodeRecord | None], bool] | None
) -> AsyncIterator[bytes]:
    now = encode(moment(gateway.staleness))
    records = [record for record in feed.snapshot() if matches is None or matches(record)]
    for start in range(0, len(records), _AT_ONCE):
        pieces = []
        for record in records[start : start + _AT_ONCE]:
            head = encode(
                {"type": "added", "key": record.key, "namespace": record.namespace, "name": record.name}
            )
            # No number: an interruption before `synced` begins anew.
            pieces.append(
                event(
                    "node", head[:-1] + b',"at":' + now + b',"node":' + gateway.views.of(record, now) + b"}"
                )
            )
        yield b"".join(pieces)


def _written(feed: Feed, entry: Entry, matches: Callable[[NodeRecord | None], bool] | None) -> bytes:
    kind = entry.type
    if matches is not None:
        before, after = matches(entry.before), kind != "removed" and matches(entry.record)
        if not before and not after:
            return b""
        if before and not after:
            kind = "removed"  # from what this reader asked for
        elif after and not before:
            kind = "added"
    return event("node", b'{"type":"' + kind.encode() + b'",' + entry.body, f"{feed.epoch}.{entry.seq}")
