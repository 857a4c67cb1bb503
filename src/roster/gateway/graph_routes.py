"""A route that shows the steps of a run's card as a graph, for whoever draws it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from roster.gateway.common import ERRORS, JSON
from roster.gateway.encoding import encode
from roster.gateway.run_routes import RunId, need_runs, soon

if TYPE_CHECKING:
    from roster.gateway.core import Gateway


class GraphNode(BaseModel):
    """One node to draw."""

    number: int
    step: str | None = Field(description="The id of the step that it stands for; null for start and end.")
    shape: str = Field(description="`box`, `diamond`, `round`, `bar`, `person` or `clock`.")
    title: str
    detail: str
    inside: int | None = Field(description="The number of the node whose branch or loop it is part of.")


class GraphArrow(BaseModel):
    """One way to draw."""

    source: int
    target: int
    label: str = Field(description="What it depends on: `then`, `else`, `failure` and so on, or nothing.")


class GraphShape(BaseModel):
    """The graph of a card."""

    card: str
    nodes: list[GraphNode]
    arrows: list[GraphArrow]
    order: list[int] = Field(description="Each node before what follows it, loops aside.")


def router(gateway: Gateway) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api/v1", tags=["runs"])

    @routes.get(
        "/runs/{id}/graph",
        response_model=GraphShape,
        responses=ERRORS(404, 501),
        summary="Get the steps of a run's card",
    )
    async def get_graph(id: RunId) -> Response:
        """The card as it was when the run began: its steps, and the ways between them."""
        runs = need_runs(gateway)
        record = await soon(runs.get(id))
        book = await soon(runs.book())
        text = await soon(asyncio.to_thread(book.card, record.digest))
        body = encode(await asyncio.to_thread(graph_of, text))
        return Response(body, media_type=JSON, headers={"cache-control": "no-cache"})

    return routes


def graph_of(text: str) -> dict[str, Any]:
    """Return the graph of a card's document."""
    from roster.cards import ProcessCard
    from roster.cards.drawing import picture
    from roster.cards.flow import Flow

    card = ProcessCard.parse(text, source="card")
    drawn = picture(card)
    steps = [node.step.id if node.step is not None else None for node in Flow(card).nodes]
    return {
        "card": card.name,
        "nodes": [
            {
                "number": number,
                "step": steps[number],
                "shape": node.shape,
                "title": node.title,
                "detail": node.detail,
                "inside": node.inside,
            }
            for number, node in drawn.nodes.items()
        ],
        "arrows": [
            {"source": arrow.source, "target": arrow.target, "label": arrow.label} for arrow in drawn.arrows
        ],
        "order": list(drawn.order),
    }
