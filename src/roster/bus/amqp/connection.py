"""One connection to a broker: what is written at once, what its end does to its channels, and who is told.

The protocol is the library's, aiormq. It writes what it is asked to when its own task comes to it; what is said on a bus has
to be at the kernel before the work begins, and saying it takes no waiting. So messages are written here, by the same socket.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import struct
import termios
import weakref
from collections.abc import Callable

import aiormq
from aiormq.abc import ChannelFrame, FrameType
from pamqp.frame import FrameTypes

from roster.bus.amqp.answers import answered, fault_of
from roster.bus.amqp.channel import Channel
from roster.bus.amqp.envelope import Properties
from roster.bus.amqp.faults import LostError, RefusedError
from roster.bus.amqp.intake import Intake
from roster.bus.amqp.settings import Settings
from roster.bus.amqp.wire import Deliver

log = logging.getLogger("roster.bus")

_CHANNEL_MAX = 2047
_LOOK = 0.002
_WRITE_BUFFER = 1024 * 1024
# Bytes that need no time to speak of, on any line.
LITTLE = 32 * 1024
# Seconds for the library to end its tasks when the socket is closed already.
AFTERMATH = 1.0

_open: weakref.WeakSet[Connection] = weakref.WeakSet()


def let_go_of_all() -> None:
    """In a forked child: let go of the parent's sockets."""
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for connection in list(_open):
        # Replaced, not closed: the objects that own these numbers will close them again.
        os.dup2(nothing, connection.descriptor, inheritable=False)
    os.close(nothing)


class Connection:
    """A connection. Made by `connecting.connect`; belongs to the loop that made it.

    Attributes:
        fault: why it has ended, None as long as it lasts.
        blocked: why the broker takes nothing more from us; empty: it does.
        written: how many bytes of messages were written in all.
        on_lost: called when it ends.
        intake: what the library reads from.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._client: aiormq.Connection
        self._last_number = 0
        self._writer: asyncio.StreamWriter | None = None
        self._out: list[bytes] = []
        self._turning = False
        self._written = False
        self.written = 0
        self._channels: dict[int, Channel] = {}
        self._unblocked = asyncio.Event()
        self._unblocked.set()
        self.fault: LostError | None = None
        self.blocked = ""
        self.on_lost: Callable[[LostError], None] = lambda _: None
        self.intake = Intake(self._on_delivery, self._on_control, self._on_eof, self.end)

    # --- for channels and their users ---

    async def channel(self, timeout: float, *, confirms: bool = False) -> Channel:
        """Open a channel.

        Raises:
            LostError: the connection has ended, or no answer in time.
        """
        self._check()
        number = self._next_number()
        opening = asyncio.ensure_future(
            self._client.channel(number, publisher_confirms=confirms, frame_buffer_size=0)
        )
        try:
            inner = await answered(opening, timeout, lambda _: None, on_its_way=self.on_its_way())
        except LostError:
            self._check()
            raise
        finally:
            opening.cancel()  # nobody waits for it: the library closes the channel
        assert isinstance(inner, aiormq.Channel)  # noqa: S101 - the library's own factory says less than it does
        channel = self._channels[inner.number] = Channel(self, inner)
        return channel

    def _next_number(self) -> int:
        # The library takes the number behind the highest, which goes up and up under those that overlap. In turn: RabbitMQ
        # may say more than once that it has closed a channel, which must not hit the next one.
        most = min(self._client.connection_tune.channel_max or _CHANNEL_MAX, _CHANNEL_MAX)
        for _ in range(most):
            self._last_number = self._last_number % most + 1
            if self._last_number not in self._client.channels:
                return self._last_number
        raise LostError(f"all {most} channels of the connection are in use")

    def _check(self) -> None:
        if self.fault is not None:
            raise self.fault

    def forget(self, number: int) -> None:
        """A channel has ended."""
        self._channels.pop(number, None)

    def write(self, number: int, *frames: FrameType) -> None:
        """Write on a channel at the end of this turn of the loop, with whatever else is written until then."""
        self.put(ChannelFrame.marshall(number, frames).payload)

    def put(self, data: bytes) -> None:
        """Write frames that are bytes already, as `write` does."""
        if self.fault is not None:
            return
        if not self._turning:
            self._turning = True
            self._loop.call_soon(self._turn)
        self._out.append(data)
        self.written += len(data)

    def _turn(self) -> None:
        self.flush()
        self._turning = self._written = False

    def flush(self) -> None:
        """Write now."""
        if self._out and self._writer is not None and self.fault is None:
            self._writer.write(b"".join(self._out))
            self._written = True
        self._out.clear()

    def flush_first(self) -> None:
        """Write now what is the first in this turn of the loop: it waits for nothing, and what follows goes together."""
        if not self._written:
            self.flush()

    @property
    def descriptor(self) -> int:
        """The number of its socket in this process."""
        assert self._writer is not None  # noqa: S101 - whoever asks has it from the list of those that are open
        number: int = self._writer.get_extra_info("socket").fileno()
        return number

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken."""
        if self.fault is not None or self._writer is None:
            return 0
        return self._writer.transport.get_write_buffer_size()

    @property
    def arrived(self) -> int:
        """How many of the bytes `written` are at the broker's machine, as far as this one can tell.

        On a slow line that takes its time, and grows; on one that is dead it does not. Whatever else is written (the
        library's questions) makes it a little less than it is.
        """
        return self.written - sum(map(len, self._out)) - self.unsent - self._in_kernel()

    def on_its_way(self) -> Callable[[], bool]:
        """Return a function that tells whether a question and its answer were on their way at the last look, and get on.

        What was written before may still be leaving, and much that is read before the answer may be coming.
        """
        mark, before, heard = self.written, self.arrived, self.intake.came

        def look() -> bool:
            nonlocal before, heard
            was, before = before, self.arrived
            said, heard = heard, self.intake.came
            return (mark - was > LITTLE and before > was) or heard - said > LITTLE

        return look

    def _in_kernel(self) -> int:
        if self.fault is not None or self._writer is None:
            return 0
        try:
            left = fcntl.ioctl(self.descriptor, termios.TIOCOUTQ, bytes(4))
        except OSError:  # macOS has no such question for sockets
            return 0
        return int(struct.unpack("i", left)[0])

    async def sent(self) -> None:
        """Wait until the kernel has all that was written, or the connection has ended."""
        while self.unsent:  # noqa: ASYNC110 - a transport tells when there is room, not when it is empty
            await asyncio.sleep(_LOOK)

    @property
    def full(self) -> bool:
        """Whether nothing more should be written: the kernel does not take it, or the broker has said so."""
        return self.fault is None and (bool(self.blocked) or self.unsent > _WRITE_BUFFER)

    async def room(self) -> None:
        """Wait until more can be written; the caller sets the limit of time."""
        while self.full and self._writer is not None:
            await self._unblocked.wait()
            try:
                await self._writer.drain()
            except ConnectionError:
                return  # it has ended

    async def close(self, timeout: float) -> None:
        """Say goodbye and end it, at the latest after `timeout` seconds."""
        if self.fault is not None:
            return
        self.flush()
        closing = asyncio.ensure_future(
            self._client.close(aiormq.ConnectionClosed(200, "the connection was closed"))
        )
        try:
            await asyncio.wait([closing], timeout=timeout)
        finally:
            self.end(LostError("the connection was closed"))
            await asyncio.wait([closing], timeout=AFTERMATH)
            closing.cancel()

    def abort(self, why: str) -> None:
        """End it at once."""
        self.end(LostError(why))

    # --- what is heard ---

    def reached(self, writer: asyncio.StreamWriter) -> None:
        """The socket is open."""
        self._writer = writer
        writer.transport.set_write_buffer_limits(_WRITE_BUFFER)
        _open.add(self)

    def opened(self, client: aiormq.Connection) -> None:
        """The broker has let us in."""
        self._client = client
        client.closing.add_done_callback(self._on_closed)

    def _on_delivery(self, number: int, deliver: Deliver, properties: Properties, body: bytes | None) -> None:
        if (channel := self._channels.get(number)) is not None:  # else it was given up
            channel.delivered(deliver, properties, body)

    def _on_control(self, number: int, frame: FrameTypes) -> None:
        match frame:
            case aiormq.spec.Channel.Close():
                if (channel := self._channels.get(number)) is not None:  # else it was given up
                    channel.end(RefusedError(frame.reply_code or 0, frame.reply_text or ""))
            case aiormq.spec.Connection.Close():
                self.end(RefusedError(frame.reply_code or 0, frame.reply_text or ""))
            case aiormq.spec.Connection.Blocked():
                self.blocked = frame.reason or "no reason given"
                self._unblocked.clear()
                log.warning("%s takes no messages just now: %s", self._settings.display, self.blocked)
            case aiormq.spec.Connection.Unblocked():
                self.blocked = ""
                self._unblocked.set()
                log.warning("%s takes messages again", self._settings.display)

    def _on_eof(self) -> None:
        if self._writer is None or not self._writer.is_closing():
            self.end(LostError("the connection was lost: the broker closed it"))
        # Else the library has closed it, and says why in a moment.

    def _on_closed(self, closing: asyncio.Future[None]) -> None:
        if self._client.is_connection_was_stuck:
            self.end(LostError(f"the broker has been silent for {1.5 * self._settings.heartbeat:g} s"))
        self.end(fault_of(None if closing.cancelled() else closing.exception()))

    def end(self, why: LostError) -> None:
        """It has ended."""
        if self.fault is not None:
            return
        self.fault = why
        _open.discard(self)
        self._out.clear()
        self._unblocked.set()
        if self._writer is not None and not isinstance(why, RefusedError):
            self._writer.transport.abort()
        for channel in list(self._channels.values()):
            channel.end(why)
        self.on_lost(why)
