"""Leases of etcd, all kept alive over one stream of their client."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from roster._clock import boottime
from roster.errors import LeaseLostError, StoreUnavailableError
from roster.store.base import Hint
from roster.store.etcd.endpoint import EOF, RpcError
from roster.store.etcd.failures import Failure
from roster.store.etcd.messages import KEEP_ALIVE, REVOKE, LeaseKeepAliveRequest, LeaseRevokeRequest

if TYPE_CHECKING:
    from roster.store.etcd.client import Client
    from roster.store.etcd.endpoint import Endpoint

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
        self, call: Any, endpoint: Endpoint, token: str | None, distrust: Callable[[Endpoint], None]
    ) -> None:
        self.token = token
        self.failure: Failure | None = None
        self.heard = boottime()
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
            StoreUnavailableError: the stream broke.
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
        except (RpcError, asyncio.InvalidStateError):
            pass  # the receiving side hears of it, with the reason

    async def _receive(self) -> None:
        failure = Failure("UNAVAILABLE", "it ended the stream of keep-alives")
        try:
            while (answer := await self._call.read()) is not EOF:
                if answer is None:
                    failure = Failure("INTERNAL", "what it answered cannot be read")
                    break
                self.heard = boottime()
                waiting = self._waiting.get(answer.ID)
                if waiting:
                    future = waiting.popleft()
                    if not waiting:
                        del self._waiting[answer.ID]
                    if not future.done():
                        future.set_result(answer.TTL)
        except RpcError as error:
            failure = Failure.of(error)
        finally:
            # gRPC raises CancelledError also for a status that the server sent: whoever waits must hear of that, too.
            self.break_off(failure)

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
                    future.set_exception(StoreUnavailableError(failure.reason))
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
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + within
        sent = boottime()
        stream: _Stream | None = None
        reason = f"no answer within {within:g} s"
        try:
            async with asyncio.timeout_at(until):
                for last in (False, True):
                    stream = await self._open(until)
                    try:
                        return await stream.ask(lease)
                    except StoreUnavailableError as error:
                        # A keep-alive may be asked twice; a stream that broke just now says nothing of the next.
                        if last or self._client.closed:
                            reason = str(error)
                            break
        except TimeoutError:
            if stream is not None and stream.failure is None and stream.heard < sent:
                stream.break_off(Failure("DEADLINE_EXCEEDED", ""))
        raise StoreUnavailableError(
            f"the lease {lease_name(lease)} could not be kept alive: {self._client.url.display}: {reason}"
        )

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
        if not self._lost:
            sent = boottime()
            ttl = await self._client.keep_alives.renew(self._number, min(self._client.timeout, self._ttl / 3))
            if ttl > 0:
                self._deadline = max(self._deadline, sent + min(ttl, self._ttl))
                return
            self._lost = True
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
