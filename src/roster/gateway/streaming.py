"""Server-sent events: a response that ends when its reader is gone, too slow, or no longer let in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",  # nginx would gather the events otherwise
}


class EventStream(Response):
    """Sends what an iterator gives, as it comes.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
    """

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the iterator ends or the client is gone."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        sending = asyncio.ensure_future(self._send(send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, gone):
                task.cancel()
            await asyncio.wait({sending, gone})
        if not sending.cancelled():
            sending.result()

    async def _send(self, send: Send) -> None:
        async for chunk in self._chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def event(name: str, data: bytes, place: str | None = None) -> bytes:
    """Return one event; `data` is JSON, which holds no line end."""
    head = f"id: {place}\nevent: {name}\ndata: " if place is not None else f"event: {name}\ndata: "
    return head.encode() + data + b"\n\n"


COMMENT = b": still here\n\n"
