"""A session of kazoo's on a thread of its own, heard on an event loop.

kazoo (2.10, 2.11) brings the protocol, sessions and failover. What it lacks or does otherwise is here: persistent recursive
watches (ZooKeeper 3.6), the zxid of each reply, sessions that are kept alive by their holder alone, one thread a session
instead of three, a bounded frame, and what went wrong with the last try to connect.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionDropped
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.protocol.connection import CLOSE_RESPONSE, STOP_CONNECTING, ConnectionHandler
from kazoo.protocol.serialization import CloseInstance
from kazoo.protocol.serialization import Watch as WatchEvent
from kazoo.protocol.states import KazooState
from kazoo.retry import ForceRetryError, KazooRetry

from roster.store.zookeeper.packets import Reply, Request
from roster.store.zookeeper.sockets import Handler, Settings

logger = logging.getLogger("roster.store.zookeeper")

# No answer is larger; the names of 500 000 children are.
_LOOKING_UP = "its host name is still being looked up"
_NO_HOST = "no such host"
_MAX_FRAME = 64 * 1024 * 1024
# Seconds between tries to connect, at most: a reader is to be current again within 3 s of the server's return.
_MAX_DELAY = 1.0


class Listener(Protocol):
    """Who hears of a connection, on the loop, in the order of things."""

    def connected(self, session: int, timeout: float) -> None: ...

    def suspended(self) -> None: ...

    def changed(self, path: str) -> None: ...

    def finished(self, *, closed: bool) -> None: ...


class Wire:
    """One ZooKeeper session over one thread. It is never replaced by another: when it has ended, it has.

    Args:
        settings: how to reach the servers.
        session_timeout: seconds without a word from us after which the server ends it; it grants what its limits allow.
        own_pings: True: it keeps itself alive; False: every request keeps it alive, and nothing else.
        listener: who hears of it.
    """

    def __init__(
        self, settings: Settings, session_timeout: float, *, own_pings: bool, listener: Listener
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[tuple[Callable[..., None], tuple[Any, ...], dict[str, Any]]] = deque()
        self._handler = Handler(settings)
        self._log = _Log(logging.getLogger(f"{logger.name}.kazoo"))
        self._client = _Client(self, settings, session_timeout, own_pings)
        self.listener = listener

    def start(self) -> None:
        """Begin to connect; goes on until `close` or `drop`."""
        self._client.start_async()

    def submit(self, request: Request, heard: Callable[[Reply], None]) -> None:
        """Send a request while connected; `heard` is told its reply, whatever becomes of it."""
        self._client._call(request.packet, Reply(self.post, heard))

    @property
    def fault(self) -> str:
        """Why the last try to connect failed; empty if none has."""
        return self._handler.fault

    @property
    def server(self) -> str:
        """The address of the server that it speaks to."""
        return self._handler.peer

    @property
    def looking_up(self) -> bool:
        """Whether its thread looks up a host name, which nothing interrupts."""
        return self._handler.looking_up

    def reconnect(self) -> None:
        """Give up a silent connection; the session goes on over another one."""
        self._handler.cut()

    def close(self) -> None:
        """Have the server end the session now; `finished` tells when it has."""
        self._stop()
        self.submit(Request("end a session", CloseInstance), lambda _: None)

    def drop(self) -> None:
        """Fall silent without a word to the server, which ends the session in its time."""
        self._stop()
        self._handler.end()

    def _stop(self) -> None:
        self._log.off = True
        self._client._stopped.set()

    def release(self) -> None:
        """Let go of what is left after `finished`."""
        self._client._connection.stop(timeout=1.0)
        self._client.close()

    # On kazoo's thread.

    def post(self, call: Callable[..., None], *args: Any, **named: Any) -> None:
        """Have the loop make a call; the calls stay in order, and a burst costs one wake-up."""
        if self.orphaned():
            return
        self._inbox.append((call, args, named))
        if len(self._inbox) == 1:
            try:
                self._loop.call_soon_threadsafe(self._drain)
            except RuntimeError:
                self.orphaned()

    def orphaned(self) -> bool:
        """Return whether the loop was closed without a goodbye; nobody is left to hear then, and all ends by itself."""
        if not self._loop.is_closed():
            return False
        self._stop()
        if self._client._connection.connection_stopped.is_set():
            self._client.close()
        return True

    def _drain(self) -> None:
        # An item leaves when it is done: until then the other side sees a length of two or more, and does not wake us.
        try:
            while self._inbox:
                call, args, named = self._inbox[0]
                try:
                    call(*args, **named)
                finally:
                    self._inbox.popleft()
        finally:
            if self._inbox:
                self._loop.call_soon(self._drain)


class _Client(KazooClient):  # type: ignore[misc]  # kazoo has no types
    def __init__(self, owner: Wire, settings: Settings, session_timeout: float, own_pings: bool) -> None:
        super().__init__(
            hosts=",".join(
                f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in settings.hosts
            ),
            timeout=session_timeout,
            handler=owner._handler,
            auth_data={("digest", settings.credential)} if settings.credential else None,
            connection_retry=KazooRetry(max_tries=-1, delay=0.1, max_delay=_MAX_DELAY),
            logger=owner._log,
        )
        self.owner = owner
        self._connection = _Connection(self, self._conn_retry.copy(), own_pings)
        self.add_listener(self._on_state)

    def _on_state(self, state: str) -> None:
        if state == KazooState.SUSPENDED:
            self.owner.post(self.owner.listener.suspended)
        elif state == KazooState.LOST:
            self._stopped.set()  # kazoo would go on with a session that is another


class _Connection(ConnectionHandler):  # type: ignore[misc]  # kazoo has no types
    def __init__(self, client: _Client, retry: KazooRetry, own_pings: bool) -> None:
        super().__init__(client, retry, logger=client.logger)
        self._own_pings = own_pings
        self._closed = False

    def zk_loop(self) -> None:
        try:
            super().zk_loop()
        except Exception:
            self.logger.exception("the thread of a connection to ZooKeeper failed")
        self.client.owner.post(self.client.owner.listener.finished, closed=self._closed)

    def _connect_loop(self, retry: KazooRetry) -> Any:
        if self.client.owner.orphaned():
            return STOP_CONNECTING
        try:
            return super()._connect_loop(retry)
        except ForceRetryError:
            if self.client._stopped.is_set():
                return STOP_CONNECTING
            raise

    def _expand_client_hosts(self) -> Any:
        handler = self.handler
        handler.fault = handler.fault or _LOOKING_UP
        # In this order: whoever stops us and does not see that we look is seen to have stopped us.
        handler.looking_up = True
        try:
            found = [] if self.client._stopped.is_set() else super()._expand_client_hosts()
        finally:
            handler.looking_up = False
        if not found:
            handler.fault = _NO_HOST
        elif handler.fault in (_LOOKING_UP, _NO_HOST):
            handler.fault = ""
        return found

    def _invoke(self, timeout: float, *args: Any, **named: Any) -> Any:
        return super()._invoke(min(timeout, self.handler.patience), *args, **named)

    def _connect(self, host: str, hostip: str, port: int) -> Any:
        # The last try's reason stands until this one has its own: a deadline may pass in the middle of it.
        self.handler.explained = False
        # A server that was wiped or restored refuses for ever whoever says that it has seen more. Nothing here needs that
        # guard against servers that lag behind: whatever is read anew begins with a `sync`.
        self.client.last_zxid = 0
        try:
            read_timeout, connect_timeout = super()._connect(host, hostip, port)
        except KazooTimeoutError:
            self.handler.too_slow()
            self.handler.fault = f"{host}:{port}: it takes connections and gives no answer"
            raise
        except ConnectionDropped:
            # A busy server, one without a quorum, and one that speaks TLS only do the same.
            if not self.handler.explained:
                self.handler.fault = (
                    f"{host}:{port}: it closed the connection at once: it has no quorum, speaks TLS alone "
                    "(zookeepers://), or has as many connections from this address as its maxClientCnxns allows"
                )
            raise
        self.handler.reached()
        owner = self.client.owner
        # kazoo keeps two thirds of what was granted.
        owner.post(owner.listener.connected, self.client._session_id, round(read_timeout * 1.5) / 1000)
        return read_timeout, connect_timeout

    def _send_ping(self, connect_timeout: float) -> None:
        if self.client.owner.orphaned():
            raise ConnectionDropped("the event loop behind it is closed")
        if self._own_pings:
            super()._send_ping(connect_timeout)

    def _read(self, length: int, timeout: float) -> Any:
        if not 0 <= length <= _MAX_FRAME:
            raise ConnectionDropped(f"a frame of {length} bytes: this is no ZooKeeper")
        return super()._read(length, timeout)

    def _read_response(self, header: Any, buffer: bytes, offset: int) -> Any:
        reply = self.client._pending[0][1]
        if reply is not None:
            reply.zxid = header.zxid
        answer = super()._read_response(header, buffer, offset)
        self._closed = answer == CLOSE_RESPONSE
        return answer

    def _read_watch_event(self, buffer: bytes, offset: int) -> None:
        event, _ = WatchEvent.deserialize(buffer, offset)
        if event.path:
            self.client.owner.post(self.client.owner.listener.changed, event.path)


class _Log(logging.LoggerAdapter[logging.Logger]):
    """kazoo's log without its secrets: at DEBUG it writes down passwords and documents, below that session keys.

    Nor does it warn at each try to connect: whoever asks while there is no connection is told so by an error.
    """

    def __init__(self, target: logging.Logger) -> None:
        super().__init__(target, {})
        self.off = False  # an end that we wished for is no news

    def log(self, level: int, msg: object, *args: object, **named: Any) -> None:
        if level > logging.DEBUG and not self.off:
            super().log(logging.INFO if level == logging.WARNING else level, msg, *args, **named)
