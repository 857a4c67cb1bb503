"""Leases of etcd, all kept alive over one stream of their client."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from roster._clock import boottime
from roster.errors import LeaseLostError
from roster.store.base import Hint
from roster.store.etcd.failures import FailedError, Failure
from roster.store.etcd.messages import KEEP_ALIVE, REVOKE, LeaseKeepAliveRequest, LeaseRevokeRequest

if TYPE_CHECKING:
    from roster.store.etcd.client import Client
    from roster.store.etcd.endpoint import Endpoint, Stream

# As etcdctl prints them; the ids of etcd are positive int64.
_ID = re.compile(r"[1-9a-f][0-9a-f]{0,15}\Z")


def lease_name(number: int) -> str | None:
    """Return the id of a lease as text, None for 0, which stands for no lease."""
    return f"{number:x}" if number else None


def lease_number(name: str | None) -> int:
    """Return the number of a lease; 0 for none.

    Raises:
        LeaseLostError: no lease of etcd is called that.
    """
    if name is None:
        return 0
    if _ID.match(name) and (number := int(name, 16)) < 1 << 63:
        return number
    raise LeaseLostError(f"there is no lease {name!r}: grant one")


class _Stream:
    """One stream of keep-alives: requests go out in a row, and each answer goes to whoever waits for that lease."""

    def __init__(
        self, call: Stream, endpoint: Endpoint, token: str | None, distrust: Callable[[Endpoint], None]
    ) -> None:
        self.token = token
        self.failure: Failure | None = None
        self.heard = 0.0
        self._call = call
        self._endpoint = endpoint
        self._distrust = distrust
        self._outbox: deque[int] = deque()
        self._posted = asyncio.Event()
        self._waiting: dict[int, deque[asyncio.Future[int]]] = {}
        self._tasks = [asyncio.create_task(self._send()), asyncio.create_task(self._receive())]

    async def ask(self, lease: int) -> int:
        """Return the TTL that the store answers with.

        Raises:
            FailedError: the stream broke.
        """
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(lease, deque()).append(answer)
        self._outbox.append(lease)
        self._posted.set()
        return await answer

    async def _send(self) -> None:
        try:
            while True:
                while self._outbox:
                    await self._call.write(LeaseKeepAliveRequest(ID=self._outbox.popleft()))
                self._posted.clear()
                await self._posted.wait()
        except FailedError:
            pass  # the receiving side hears of it, with the reason

    async def _receive(self) -> None:
        try:
            while True:
                answer = await self._call.read()
                self.heard = boottime()
                waiting = self._waiting.get(answer.ID)
                if waiting:
                    future = waiting.popleft()
                    if not waiting:
                        del self._waiting[answer.ID]
                    if not future.done():
                        future.set_result(answer.TTL)
        except FailedError as error:
            self.break_off(error.failure)

    def break_off(self, failure: Failure) -> None:
        """End the stream; whoever waits gets the reason."""
        if self.failure is not None:
            return
        self.failure = failure
        if failure.away:
            self._distrust(self._endpoint)
        self._call.cancel()
        for task in self._tasks:
            task.cancel()
        for waiting in self._waiting.values():
            for future in waiting:
                if not future.done():
                    future.set_exception(FailedError(failure))
        self._waiting.clear()

    async def close(self) -> None:
        self.break_off(Failure("CANCELLED", "this client is closed"))
        await asyncio.wait(self._tasks)


class KeepAlives:
    """The stream of keep-alives of a client: opened at the first, again when it broke.

    Args:
        client: whose leases.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stream: _Stream | None = None
        self._opening = asyncio.Lock()

    async def renew(self, lease: int, within: float) -> int:
        """Renew a lease and return its TTL; 0 or less: it has ended.

        Args:
            lease: its number.
            within: seconds until an answer must be there.

        Raises:
            StoreUnavailableError: there was none.
            StoreDeniedError: we may not.
        """
        until = asyncio.get_running_loop().time() + within
        sent = boottime()
        failure = Failure.SILENT
        try:
            async with asyncio.timeout_at(until):
                # A keep-alive may be asked twice, and a stream that broke just now says nothing of the next.
                for _ in range(2):
                    stream = await self._open(until)
                    try:
                        return await stream.ask(lease)
                    except FailedError as error:
                        failure = error.failure
        except TimeoutError:
            if self._stream is not None and self._stream.heard < sent:
                self._stream.break_off(failure)
        if failure.away:
            raise self._client.away(
                f"the lease {lease_name(lease)} could not be kept alive: {failure.reason}"
            )
        raise self._client.refusal(failure, f"keep the lease {lease_name(lease)} alive")

    async def _open(self, until: float) -> _Stream:
        async with self._opening:
            if self._stream is not None:
                if self._stream.failure is None:
                    return self._stream
                if self._stream.failure.bad_token:
                    self._client.forget_token(self._stream.token)
            endpoint = await self._client.connect(until)
            call = endpoint.stream(KEEP_ALIVE, self._client.metadata())
            self._stream = _Stream(call, endpoint, self._client.token, self._client.distrust)
            return self._stream

    async def close(self) -> None:
        """End the stream; whoever waits gets `StoreUnavailableError`."""
        if self._stream is not None:
            await self._stream.close()


class EtcdLease:
    """A lease of an `etcd://` store; see `roster.store.base.Lease`."""

    def __init__(self, client: Client, number: int, ttl: int, sent: float) -> None:
        self._client = client
        self._number = number
        self._ttl = ttl
        self._deadline = sent + ttl
        self._lost = False

    @property
    def id(self) -> str:
        return f"{self._number:x}"

    @property
    def ttl(self) -> float:
        return float(self._ttl)

    @property
    def deadline(self) -> float:
        return self._deadline

    @property
    def lost(self) -> bool:
        return self._lost or boottime() >= self._deadline

    async def keep_alive(self) -> None:
        self._require()
        sent = boottime()
        within = min(self._client.timeout, self._ttl / 3)
        ttl = await self._client.keep_alives.renew(self._number, within)
        if ttl <= 0:
            self._lost = True
        self._require()
        self._deadline = max(self._deadline, sent + min(ttl, self._ttl))

    def _require(self) -> None:
        if self._lost:
            raise LeaseLostError(f"the lease {self.id} has ended: grant another")

    async def describe(self, hint: Hint) -> None:
        pass  # etcd shows nobody a hint

    async def revoke(self) -> None:
        self._lost = True
        try:
            await self._client.read(
                REVOKE, LeaseRevokeRequest(ID=self._number), f"revoke the lease {self.id}"
            )
        except LeaseLostError:
            pass  # it has ended already
