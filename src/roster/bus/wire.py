"""One Unix socket with frames on it: reads what comes, gathers what goes and writes it once a loop turn.

It stands on the loop's readers and writers and not on an asyncio transport, for one reason: a transport that
fails to write drops what it has not read yet. When a consumer dies, its last start notices and answers lie in
our receive buffer, and they decide between "never ran" and "may have run". Here a failed write only ends the
writing; the end comes with end-of-file, after everything that was written has been read (unix(7): a stream
keeps its order, and Linux hands out what is queued before it reports the reset).
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import Protocol

from roster.bus.frames import HEADER

READ_BYTES = 256 * 1024
WRITE_BYTES = 256 * 1024
# A peer that has closed only its reading side never sends end-of-file by itself.
HALF_OPEN_SECONDS = 1.0
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)


class End(Protocol):
    """Who owns a wire. Neither method may raise."""

    def on_frame(self, kind: int, number: int, payload: memoryview) -> None:
        """Take a frame. The payload's bytes are valid during the call only. `ValueError`: it is garbage."""
        ...

    def on_lost(self, reason: str, fault: bool) -> None:
        """Take note of the wire's end: called once, after its last frame. `fault`: worth a log line."""
        ...

    def on_room(self) -> None:
        """Take note that all that waited has been written."""
        ...


class Wires:
    """What the wires of one bus share: the loop, the buffer to read into, those with something to write."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.buffer = memoryview(bytearray(READ_BYTES))
        self.open: set[Wire] = set()
        self._dirty: list[Wire] = []

    def later(self, wire: Wire) -> None:
        """Write what gathers on a wire at the end of this loop turn."""
        if not self._dirty:
            self.loop.call_soon(self._flush)
        self._dirty.append(wire)

    def _flush(self) -> None:
        wires, self._dirty = self._dirty, []
        for wire in wires:
            wire.flush()


class Wire:
    """One connection. `max_payload` bounds what a frame may announce."""

    __slots__ = (
        "_blocked",
        "_deaf",
        "_dirty",
        "_end",
        "_half_open",
        "_max_payload",
        "_need",
        "_out",
        "_partial",
        "_queued",
        "_sock",
        "_waiters",
        "_wires",
        "closed",
        "fd",
        "sent",
        "waiting",
    )

    def __init__(self, wires: Wires, sock: socket.socket, end: End, max_payload: int) -> None:
        sock.setblocking(False)
        self._wires = wires
        self._sock = sock
        self._end = end
        self._max_payload = max_payload
        self._out: deque[bytes | memoryview] = deque()
        self._partial = bytearray()
        self._need = HEADER.size
        # Bytes ever handed to us, bytes ever taken by the kernel.
        self._queued = 0
        self.sent = 0
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._dirty = False
        self._blocked = False
        self._deaf = False
        self._half_open: asyncio.TimerHandle | None = None
        self.waiting = 0
        self.closed = False
        self.fd = sock.fileno()
        wires.open.add(self)
        wires.loop.add_reader(self.fd, self._readable)

    @property
    def usable(self) -> bool:
        """Whether what is sent now has a chance to arrive."""
        return not (self.closed or self._deaf)

    # --- writing ---

    def send(self, kind: int, number: int = 0, payload: bytes = b"") -> None:
        """Queue a frame; it is written at the end of this loop turn, or by `flush`."""
        if self.closed or self._deaf:
            return
        size = len(payload)
        self._out.append(HEADER.pack(size, kind, number))
        if size:
            self._out.append(payload)
        size += HEADER.size
        self._queued += size
        self.waiting += size
        if not self._dirty and not self._blocked:
            self._dirty = True
            self._wires.later(self)

    def flush(self) -> bool:
        """Write now what waits; return whether the kernel has all of it (or nobody will ever take it)."""
        self._dirty = False
        if not self._blocked:
            self._write()
        return not self._out

    def drained(self) -> asyncio.Future[None]:
        """Return a future that ends when the kernel has what was sent so far, or the wire is gone."""
        future: asyncio.Future[None] = self._wires.loop.create_future()
        if self._out:
            self._waiters.append((self._queued, future))
        else:
            future.set_result(None)
        return future

    def _write(self) -> None:
        while self._out:
            chunk = self._chunk()
            try:
                sent = self._sock.send(chunk, _NO_SIGNAL)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                self._stop_writing()
                return
            self.sent += sent
            self.waiting -= sent
            if sent < len(chunk):
                self._out.appendleft(memoryview(chunk)[sent:])
                self._release()
                if not self._blocked:
                    self._blocked = True
                    self._wires.loop.add_writer(self.fd, self._writable)
                return
        self._release()
        self._end.on_room()

    def _chunk(self) -> bytes | memoryview:
        """Take the next bytes to write: what is small is joined, what is large goes as it is."""
        out = self._out
        if len(out) == 1 or len(out[0]) >= WRITE_BYTES:
            return out.popleft()
        if self.waiting <= WRITE_BYTES:
            whole = b"".join(out)
            out.clear()
            return whole
        parts, size = [out.popleft()], 0
        while out and size < WRITE_BYTES:
            parts.append(out.popleft())
            size += len(parts[-1])
        return b"".join(parts)

    def _writable(self) -> None:
        self._write()
        if self._blocked and not self._out:
            self._blocked = False
            self._wires.loop.remove_writer(self.fd)

    def _release(self) -> None:
        while self._waiters and (not self._out or self._waiters[0][0] <= self.sent):
            future = self._waiters.popleft()[1]
            if not future.done():
                future.set_result(None)

    def _stop_writing(self) -> None:
        """The other side takes no more: read on to the end-of-file, which is behind its last words."""
        self._deaf = True
        self._out.clear()
        self.waiting = 0
        self._release()
        if self._blocked:
            self._blocked = False
            self._wires.loop.remove_writer(self.fd)
        self._half_open = self._wires.loop.call_later(HALF_OPEN_SECONDS, self.close, "it reads no more")

    # --- reading ---

    def _readable(self) -> None:
        buffer = self._wires.buffer
        try:
            count = self._sock.recv_into(buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(error.strerror or "the connection broke")
            return
        if not count:
            self.close("it closed the connection")
            return
        try:
            if self._partial:
                self._partial += buffer[:count]
                if len(self._partial) >= self._need:
                    whole, self._partial = memoryview(self._partial), bytearray()
                    self._split(whole)
            else:
                self._split(buffer[:count])
        except ValueError as error:
            self.close(f"it sent garbage: {error}", fault=True)

    def _split(self, data: memoryview) -> None:
        """Hand out the whole frames in `data`, keep the rest."""
        position, end = 0, len(data)
        header = HEADER.size
        self._need = header
        on_frame = self._end.on_frame
        while end - position >= header:
            length, kind, number = HEADER.unpack_from(data, position)
            if length > self._max_payload:
                raise ValueError(f"a frame of {length} bytes, the limit is {self._max_payload}")
            stop = position + header + length
            if stop > end:
                self._need = stop - position
                break
            on_frame(kind, number, data[position + header : stop])
            if self.closed:
                return
            position = stop
        if position < end:
            self._partial += data[position:]

    # --- the end ---

    def close(self, reason: str = "it was closed", *, fault: bool = False) -> None:
        """Close the socket, tell the owner once."""
        if self.closed:
            return
        self.closed = True
        loop = self._wires.loop
        loop.remove_reader(self.fd)
        if self._blocked:
            loop.remove_writer(self.fd)
        if self._half_open is not None:
            self._half_open.cancel()
        self._sock.close()
        self._wires.open.discard(self)
        self._out.clear()
        self.waiting = 0
        self._release()
        self._end.on_lost(reason, fault)
