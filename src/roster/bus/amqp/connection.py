"""One connection to a broker: handshake, frames, heartbeats, and what its end does to its channels.

It is a client of our own rather than a library because of what the bus promises: what is said is written at once, in order
and without a task for each message; each wait has its own deadline; queues may have any name; and the end of a connection is
heard by everybody in the same moment.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import socket
import weakref
from collections.abc import Callable

from roster._version import __version__
from roster.bus.amqp import codec
from roster.bus.amqp.channel import Channel
from roster.bus.amqp.faults import LostError, RefusedError
from roster.bus.amqp.settings import Settings

log = logging.getLogger("roster.bus")

_FRAME_MAX = 131_072
_CHANNEL_MAX = 2047
_LOOK = 0.002
_WRITE_BUFFER = 1024 * 1024
_CAPABILITIES = {
    "publisher_confirms": True,
    "consumer_cancel_notify": True,
    "connection.blocked": True,
    "basic.nack": True,
    "authentication_failure_close": True,
}


_open: weakref.WeakSet[Connection] = weakref.WeakSet()


def let_go_of_all() -> None:
    """In a forked child: let go of the parent's sockets."""
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for connection in list(_open):
        # Replaced, not closed: the objects that own these numbers will close them again.
        os.dup2(nothing, connection.descriptor, inheritable=False)
    os.close(nothing)


class Connection(asyncio.Protocol):
    """A connection. Made by `connecting.connect`; belongs to the loop that made it.

    Attributes:
        opened: done when the broker has let us in.
        fault: why it has ended, None as long as it lasts.
        blocked: why the broker takes nothing more from us; empty: it does.
        on_lost: called when it ends.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self._closing: asyncio.Future[None] | None = None
        self._buffer = bytearray()
        self._channels: dict[int, Channel] = {}
        self._channel_max = _CHANNEL_MAX
        self._last_number = 0
        self._out: list[bytes] = []
        self._flush_planned = False
        self._paused = False
        self._room: asyncio.Event = asyncio.Event()
        self._room.set()
        self._tick: asyncio.TimerHandle | None = None
        self._interval = 0.0
        self._silent_for = 0
        self._wrote = False
        self._why: LostError | None = None
        self.fault: LostError | None = None
        self.blocked = ""
        self.frame_max = _FRAME_MAX
        self.on_lost: Callable[[LostError], None] = lambda _: None

    # --- for channels and their users ---

    async def channel(self, timeout: float, *, confirms: bool = False) -> Channel:
        """Open a channel.

        Raises:
            LostError: the connection has ended, or no answer in time.
        """
        if self.fault is not None:
            raise self.fault
        number = self._next_number()
        channel = self._channels[number] = Channel(self, number)
        await channel.open(timeout, confirms=confirms)
        return channel

    def _next_number(self) -> int:
        # In turn: RabbitMQ may say more than once that it has closed a channel, which must not hit the next one.
        for _ in range(self._channel_max):
            self._last_number = self._last_number % self._channel_max + 1
            if self._last_number not in self._channels:
                return self._last_number
        raise LostError(f"all {self._channel_max} channels of the connection are in use")

    def forget(self, number: int) -> None:
        """A channel has ended at both sides: its number is free."""
        self._channels.pop(number, None)

    def write(self, data: bytes) -> None:
        """Write at the end of this turn of the loop, with whatever else is written until then."""
        if self.fault is not None:
            return
        self._out.append(data)
        if not self._flush_planned:
            self._flush_planned = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write now."""
        self._flush_planned = False
        if self._out and self.fault is None:
            data = b"".join(self._out)
            self._out.clear()
            self._wrote = True
            self._transport.write(data)

    @property
    def descriptor(self) -> int:
        """The number of its socket in this process."""
        number: int = self._transport.get_extra_info("socket").fileno()
        return number

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken."""
        return 0 if self.fault is not None else self._transport.get_write_buffer_size()

    async def sent(self) -> None:
        """Wait until the kernel has all that was written, or the connection has ended."""
        while self.unsent:  # noqa: ASYNC110 - a transport tells when there is room, not when it is empty
            await asyncio.sleep(_LOOK)

    async def room(self) -> None:
        """Wait until more can be written; the caller sets the limit of time."""
        await self._room.wait()

    @property
    def full(self) -> bool:
        """Whether nothing more should be written: the kernel does not take it, or the broker has said so."""
        return not self._room.is_set()

    async def close(self, timeout: float) -> None:
        """Say goodbye and end it, at the latest after `timeout` seconds."""
        if self.fault is not None:
            return
        self._closing = self._loop.create_future()
        self.write(codec.method(0, 10, 50, b"\x00\xc8" + codec.short("goodbye") + b"\x00\x00\x00\x00"))
        self.flush()
        await asyncio.wait([self._closing], timeout=timeout)
        self._end(LostError("the connection was closed"))

    def abort(self, why: str) -> None:
        """End it at once."""
        self._end(LostError(why))

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what create_connection makes
        self._transport = transport
        _open.add(self)
        transport.set_write_buffer_limits(_WRITE_BUFFER)
        transport.write(codec.GREETING)

    def connection_lost(self, exc: Exception | None) -> None:
        reason = exc.strerror or str(exc) if isinstance(exc, OSError) else "the broker closed it"
        self._end(self._why or LostError(f"the connection was lost: {reason}"))

    def eof_received(self) -> None:
        pass  # the transport closes itself

    def pause_writing(self) -> None:
        self._paused = True
        self._room.clear()

    def resume_writing(self) -> None:
        self._paused = False
        if not self.blocked:
            self._room.set()

    def data_received(self, data: bytes) -> None:
        self._silent_for = 0
        buffer = self._buffer
        buffer += data
        at, end = 0, len(buffer)
        try:
            while end - at >= codec.FRAME_OVERHEAD:
                size = int.from_bytes(buffer[at + 3 : at + 7], "big")
                if buffer[at : at + 4] == b"AMQP":
                    raise codec.CodecError("the broker speaks another version of AMQP than 0-9-1")
                if size > self.frame_max:
                    raise codec.CodecError(f"a frame of {size} bytes")
                after = at + size + codec.FRAME_OVERHEAD
                if after > end:
                    break
                if buffer[after - 1] != codec.FRAME_END:
                    raise codec.CodecError("a frame without its end")
                number = buffer[at + 1] << 8 | buffer[at + 2]
                self._frame(buffer[at], number, bytes(buffer[at + 7 : after - 1]))
                if self.fault is not None:
                    return
                at = after
        except codec.CodecError as error:
            self._end(LostError(f"what answers is no AMQP broker, or a broken one: {error}"))
            return
        del buffer[:at]
        self.flush()

    # --- frames ---

    def _frame(self, kind: int, number: int, payload: bytes) -> None:
        if kind == codec.HEARTBEAT:
            return
        if number:
            channel = self._channels.get(number)
            if channel is not None:  # else it was given up, and this was on its way
                channel.frame(kind, payload)
        elif kind == codec.METHOD:
            self._method(codec.read_method(payload))
        else:
            raise codec.CodecError(f"a frame of kind {kind} on channel 0")

    def _method(self, method: codec.Method) -> None:
        match method.name:
            case "connection.start":
                self._start(method.arguments[3])
            case "connection.tune":
                self._tune(*method.arguments)
            case "connection.open-ok":
                self.opened.set_result(None)
            case "connection.close":
                code, text, *_ = method.arguments
                self._why = RefusedError(code, text)
                self.write(codec.method(0, 10, 51))
                self.flush()
                self._end(self._why)
            case "connection.close-ok":
                if self._closing is not None and not self._closing.done():
                    self._closing.set_result(None)
            case "connection.blocked":
                self.blocked = method.arguments[0] or "no reason given"
                self._room.clear()
                log.warning("%s takes no messages just now: %s", self._settings.display, self.blocked)
            case "connection.unblocked":
                self.blocked = ""
                log.warning("%s takes messages again", self._settings.display)
                if not self._paused:
                    self._room.set()
            case _:
                raise codec.CodecError(f"{method.name} at a time when it has no place")

    def _start(self, mechanisms: bytes) -> None:
        if b"PLAIN" not in mechanisms.split():
            raise codec.CodecError("the broker takes no password (SASL PLAIN)")
        properties = {
            "product": "Roster",
            "version": __version__,
            "platform": f"{platform.python_implementation()} {platform.python_version()}",
            "connection_name": f"{self._name} {socket.gethostname()}/{os.getpid()}",
            "capabilities": _CAPABILITIES,
        }
        login = b"\x00" + self._settings.username.encode() + b"\x00" + self._settings.password.encode()
        self.write(
            codec.method(
                0,
                10,
                11,
                codec.table(properties) + codec.short("PLAIN") + codec.long(login) + codec.short("en_US"),
            )
        )

    def _tune(self, channel_max: int, frame_max: int, heartbeat: int) -> None:
        self.frame_max = min(frame_max or _FRAME_MAX, _FRAME_MAX)
        self._channel_max = min(channel_max or _CHANNEL_MAX, _CHANNEL_MAX)
        ours = self._settings.heartbeat
        seconds = min(heartbeat, ours) if heartbeat else ours
        answer = b"".join(
            (
                self._channel_max.to_bytes(2, "big"),
                self.frame_max.to_bytes(4, "big"),
                seconds.to_bytes(2, "big"),
            )
        )
        self.write(codec.method(0, 10, 31, answer))
        self.write(codec.method(0, 10, 40, codec.short(self._settings.vhost) + b"\x00\x00"))
        self._interval = seconds / 2
        self._tick = self._loop.call_later(self._interval, self._beat)

    def _beat(self) -> None:
        # Turns of this timer are counted, not seconds: a process that stood still has not listened meanwhile.
        self._silent_for += 1
        if self._silent_for > 4:
            self._end(LostError(f"the broker has been silent for {2 * self._interval * 2:g} s"))
            return
        if not self._wrote:
            self.write(codec.HEARTBEAT_FRAME)
            self.flush()
        self._wrote = False
        self._tick = self._loop.call_later(self._interval, self._beat)

    def _end(self, why: LostError) -> None:
        if self.fault is not None:
            return
        self.fault = why
        _open.discard(self)
        self._out.clear()
        if self._tick is not None:
            self._tick.cancel()
        self._room.set()
        if isinstance(why, RefusedError):
            self._transport.close()
        else:
            self._transport.abort()
        if not self.opened.done():
            self.opened.set_exception(why)
            self.opened.exception()
        if self._closing is not None and not self._closing.done():
            self._closing.set_result(None)
        for channel in list(self._channels.values()):
            channel.end(why)
        self._channels.clear()
        self.on_lost(why)
