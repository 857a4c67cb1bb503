"""Serves a gateway over HTTP/1.1, with deadlines for every part of a request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from roster.errors import ConfigError
from roster.gateway.app import create_app
from roster.gateway.core import Gateway
from roster.gateway.settings import Limits, Settings, room_for_connections

# Requests that are no HTTP are the clients' affair: a hostile one must not fill the log.
_http = logging.getLogger("roster.gateway.http")
_http.setLevel(logging.ERROR)

_GRACE = 5
_BACKLOG = 2048
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def bind(settings: Settings) -> socket.socket:
    """Return the socket to listen on.

    Raises:
        ConfigError: the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"the gateway cannot listen on {settings.host}:{settings.port}: {error.strerror or error}; "
            "give it another address with --listen HOST:PORT"
        ) from None
    return listening


async def serve(
    gateway: Gateway,
    listening: socket.socket,
    *,
    on_started: Callable[[], None] = lambda: None,
    signals: bool = True,
) -> signal.Signals | None:
    """Serve an open gateway until SIGTERM or SIGINT, or until cancelled; return the signal.

    Args:
        gateway: what to serve.
        listening: see `bind`; it is closed at the end.
        on_started: called when clients can connect.
        signals: whether to end at signals.
    """
    limits = gateway.settings.limits
    room = room_for_connections(limits.connections)
    config = uvicorn.Config(
        create_app(gateway),
        http=_protocol(limits, room),
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=int(limits.idle_seconds),
        timeout_graceful_shutdown=_GRACE,
        h11_max_incomplete_event_size=limits.header_bytes,
    )
    server = _Server(config, gateway, on_started)
    gateway.connections = lambda: len(server.server_state.connections)
    ended: list[signal.Signals] = []
    loop = asyncio.get_running_loop()

    def end(number: signal.Signals) -> None:
        server.force_exit = bool(ended)
        ended.append(number)
        server.should_exit = True

    if signals:
        for number in _SIGNALS:
            loop.add_signal_handler(number, end, number)
    serving = asyncio.create_task(server.serve(sockets=[listening]), name="roster-gateway-server")
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        # uvicorn would leave its sockets with the loop, which then never hears of others that get their numbers.
        server.should_exit = True
        await asyncio.wait([serving])
        raise
    finally:
        if signals:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)
        listening.close()
    return ended[0] if ended else None


class _Server(uvicorn.Server):
    """uvicorn's server, with our signals, and streams that end when it leaves."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._on_started = on_started

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `serve`: uvicorn would raise them again at the end, and so end the process by them."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams first: uvicorn would wait for them."""
        self._gateway.leave()
        await super().shutdown(sockets)


def _protocol(limits: Limits, room: int) -> type[H11Protocol]:
    class Protocol(_Bounded):
        pass

    Protocol.limits = limits
    Protocol.room = room
    return Protocol


class _Corked:
    """A transport that writes once in each turn of the loop: headers and body, written apart by uvicorn, leave together."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._waiting: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Write at the end of this turn."""
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(data)

    def _flush(self) -> None:
        if self._waiting:
            data, self._waiting = b"".join(self._waiting), []
            if not self._transport.is_closing():
                self._transport.write(data)

    def close(self) -> None:
        """Close when everything is written."""
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Bounded(H11Protocol):
    """uvicorn's protocol with absolute deadlines, which it does not have: a client that sends a byte now and then, or
    reads none, holds its connection no longer than the limits say.
    """

    limits = Limits()
    room = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _http  # uvicorn's own would go to whoever has set up the root logger, in its own words
        self._deadline: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._full = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own has it
        super().connection_made(cast("asyncio.Transport", _Corked(transport, self.loop)))
        if len(self.connections) > self.room:
            self._full = True
            self._refuse(503, "too-many-connections", "too many connections are open; try again later")
            return
        self._begin(self.limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._full or self.transport.is_closing():
            return
        before: RequestResponseCycle | None = self.cycle
        idle = before is None or before.response_complete
        if idle and self._deadline is None:
            self._begin(self.limits.header_seconds)  # the next request on a connection that was idle
        super().data_received(data)
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not before and cycle is not None:
            self._end()
            if cycle.more_body:
                self._begin(self.limits.body_seconds)
        elif cycle is not None and not cycle.more_body and not idle:
            self._end()

    def on_response_complete(self) -> None:
        """The next request has its own deadline: from its first byte, or `idle_seconds` until that comes."""
        before = self.cycle
        self._end()
        super().on_response_complete()
        if self.cycle is not before:
            return  # it had been waiting already
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._begin(self.limits.header_seconds)

    def pause_writing(self) -> None:
        """The client does not read what waits for it."""
        super().pause_writing()
        if self._writing is None:
            self._writing = self.loop.call_later(self.limits.write_seconds, self._abort)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _begin(self, seconds: float) -> None:
        self._end()
        self._deadline = self.loop.call_later(seconds, self._late)

    def _end(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self._refuse(408, "too-slow", "the request did not arrive in time")
        else:
            self._abort()

    def _abort(self) -> None:
        self._writing = None
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """What came is not HTTP, or its headers do not end."""
        self._end()
        self._refuse(400, "invalid-http", f"{msg} The headers may have {self.limits.header_bytes} bytes.")

    def _refuse(self, status: int, type: str, detail: str) -> None:
        """Answer outside of any request, and close."""
        from roster.gateway.problems import Problem

        problem = Problem(status, type, detail)
        body = problem.response().body
        head = (
            f"HTTP/1.1 {status} {problem.document()['title']}\r\ncontent-type: application/problem+json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + bytes(body))
        self.transport.close()
