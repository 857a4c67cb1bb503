"""The client of one etcd cluster: which member to ask, who we are, and what may be asked twice."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from roster.errors import StoreDeniedError, StoreError, StoreUnavailableError
from roster.store.etcd.endpoint import Endpoint, Metadata, RpcError, credentials
from roster.store.etcd.failures import Failure, refusal
from roster.store.etcd.leases import KeepAlives
from roster.store.etcd.messages import AUTHENTICATE, STATUS, AuthenticateRequest, Method, StatusRequest
from roster.store.url import StoreUrl

# Members that elect a leader are asked again after up to this many seconds.
ELECTION_PAUSE = 0.2


class Client:
    """What all stores of one URL in one event loop share: channels, the token, the stream of keep-alives.

    Made by `acquire`, given back with `release`.

    Args:
        url: which cluster.
    """

    def __init__(self, url: StoreUrl) -> None:
        self.url = url
        self.timeout = url.timeout
        self.users = 0
        self.closed = False
        self.keep_alives = KeepAlives(self)
        try:
            secure = None if url.tls is None else credentials(url.tls)
        except OSError as error:
            raise StoreDeniedError(
                f"a TLS file of {url.display} cannot be read: {error.strerror}: {error.filename}"
            ) from error
        self._endpoints = [Endpoint(host, port, secure, self.timeout) for host, port in url.hosts]
        # Clients spread over the members.
        self._next = random.randrange(len(self._endpoints))  # noqa: S311 - no secret
        self._current: Endpoint | None = None
        self._connecting = asyncio.Lock()
        self._token: str | None = None
        self._loop = asyncio.get_running_loop()

    # -- asking ------------------------------------------------------------------------------------

    async def read(self, method: Method, request: Any, doing: str) -> Any:
        """Ask what may be asked twice, of one member after the other.

        Args:
            doing: what this is, for error messages.

        Raises:
            StoreUnavailableError: nobody answered in time.
            StoreError: the answer was no.
        """
        return await self._ask(method, request, doing, repeatable=True)

    async def write(self, method: Method, request: Any, doing: str) -> Any:
        """Ask once; again only where it is certain that nothing was done.

        Raises:
            StoreUnavailableError: nobody answered in time; it may have been done.
            StoreError: the answer was no.
        """
        return await self._ask(method, request, doing, repeatable=False)

    async def _ask(self, method: Method, request: Any, doing: str, *, repeatable: bool) -> Any:
        until = self._loop.time() + self.timeout
        renewed = False
        while True:
            endpoint = await self.connect(until)
            token = self._token
            try:
                answer = await self._call(endpoint, method, request, until, patient=not repeatable)
            except RpcError as error:
                failure = Failure.of(error)
            else:
                if answer is not None:
                    return answer
                failure = Failure("INTERNAL", "what it answered cannot be read")
            if failure.bad_token and self.url.username and not renewed:
                renewed = True
                self.forget_token(token)
                continue
            if not failure.away:
                raise self.refusal(failure, doing)
            self.distrust(endpoint)
            again = repeatable or failure.not_done
            pause = random.uniform(0, ELECTION_PAUSE)  # noqa: S311 - jitter
            if not again or self._loop.time() + pause >= until:
                what = "" if again else f", and whether it did {doing} is not known"
                raise StoreUnavailableError(
                    f"the store {self.url.display} is out of reach: {endpoint.name}: {failure.reason}{what}"
                )
            if failure.no_leader or len(self._endpoints) == 1:
                await asyncio.sleep(pause)

    async def _call(
        self, endpoint: Endpoint, method: Method, request: Any, until: float, *, patient: bool
    ) -> Any:
        """Ask one member, for all of the time that is left or, where there are others, for half of it."""
        left = until - self._loop.time()
        share = left if patient or len(self._endpoints) == 1 else left / 2
        return await endpoint.call(method, request, max(share, 0.001), self.metadata())

    # -- members -----------------------------------------------------------------------------------

    async def connect(self, until: float | None = None) -> Endpoint:
        """Return a member that answers and knows a leader, with a token in hand if there is a user.

        Args:
            until: give up at this time of the loop's clock; None: after the timeout.

        Raises:
            StoreUnavailableError: there is none.
            StoreDeniedError: user or password is wrong.
        """
        if self._current is not None and (self._token is not None or not self.url.username):
            return self._current
        if self.closed:
            raise StoreUnavailableError(f"this client of {self.url.display} is closed: open another")
        until = self._loop.time() + self.timeout if until is None else until
        try:
            async with asyncio.timeout_at(until), self._connecting:
                return await self._search(until)
        except TimeoutError:
            raise StoreUnavailableError(
                f"the store {self.url.display} is out of reach: no answer within {self.timeout:g} s"
            ) from None

    def distrust(self, endpoint: Endpoint) -> None:
        """Ask another member next time: this one failed, or fell silent."""
        if self._current is endpoint:
            self._current = None
            self._next = (self._endpoints.index(endpoint) + 1) % len(self._endpoints)

    async def _search(self, until: float) -> Endpoint:
        """Go from member to member until one will do; while they elect a leader, go round again."""
        while True:
            failures: list[tuple[Endpoint, Failure]] = []
            if self._current is None:
                failures = await self._go_round(until)
            if self._current is not None:
                await self._authenticate(self._current, until)
                return self._current
            pause = random.uniform(0, ELECTION_PAUSE)  # noqa: S311 - jitter
            electing = any(failure.no_leader for _, failure in failures)
            if not electing or self._loop.time() + pause >= until:
                reasons = [
                    failure.reason if len(failures) == 1 else f"{endpoint.name}: {failure.reason}"
                    for endpoint, failure in failures
                ]
                raise StoreUnavailableError(
                    f"the store {self.url.display} is out of reach: {'; '.join(reasons)}"
                )
            await asyncio.sleep(pause)

    async def _go_round(self, until: float) -> list[tuple[Endpoint, Failure]]:
        failures: list[tuple[Endpoint, Failure]] = []
        for endpoint in self._in_order():
            failure = await self._probe(endpoint, until, last=len(failures) == len(self._endpoints) - 1)
            if failure is None:
                self._current = endpoint
                break
            failures.append((endpoint, failure))
        return failures

    def _in_order(self) -> Iterator[Endpoint]:
        start = self._next
        for number in range(len(self._endpoints)):
            yield self._endpoints[(start + number) % len(self._endpoints)]

    async def _probe(self, endpoint: Endpoint, until: float, *, last: bool) -> Failure | None:
        """Return why this member will not do, None if it will."""
        try:
            status = await self._call(endpoint, STATUS, StatusRequest(), until, patient=last)
        except RpcError as error:
            failure = Failure.of(error)
            return failure if failure.away or failure.code == "UNIMPLEMENTED" else None
        if status is None:
            return Failure("INTERNAL", "what it answered cannot be read")
        endpoint.version = status.version
        if not status.leader:
            return Failure("UNAVAILABLE", "etcdserver: no leader")
        if status.isLearner:
            return Failure("UNAVAILABLE", "etcdserver: rpc not supported for learner")
        return None

    # -- who we are --------------------------------------------------------------------------------

    @property
    def who(self) -> str:
        """Who asks, for error messages."""
        return f"the user {self.url.username!r}" if self.url.username else "this client"

    def metadata(self) -> Metadata:
        """Return what goes with each request."""
        # A member without a leader then refuses at once, and ends its watches, instead of waiting for one.
        leader = ("hasleader", "true")
        return (leader, ("token", self._token)) if self._token else (leader,)

    def forget_token(self, token: str | None) -> None:
        """Have another token made before the next request, unless this one is not in use any more."""
        if self._token == token:
            self._token = None

    @property
    def token(self) -> str | None:
        """The token that requests carry."""
        return self._token

    async def _authenticate(self, endpoint: Endpoint, until: float) -> None:
        if not self.url.username or self._token is not None:
            return
        request = AuthenticateRequest(name=self.url.username, password=self.url.password or "")
        try:
            answer = await self._call(endpoint, AUTHENTICATE, request, until, patient=True)
        except RpcError as error:
            failure = Failure.of(error)
            if failure.away:
                self.distrust(endpoint)
                raise StoreUnavailableError(
                    f"the store {self.url.display} is out of reach: {endpoint.name}: {failure.reason}"
                ) from None
            if "authentication is not enabled" in failure.text:
                self._token = ""
                return
            raise StoreDeniedError(
                f"{self.url.display} does not accept {self.who}: user name or password is wrong"
            ) from None
        self._token = answer.token

    def refusal(self, failure: Failure, doing: str) -> StoreError:
        """Return the error for a request that was answered with a no."""
        return refusal(failure, self.url.display, self.who, doing)

    async def close(self) -> None:
        """End all connections."""
        self.closed = True
        self._current = None
        await self.keep_alives.close()
        await asyncio.gather(*(endpoint.close() for endpoint in self._endpoints))


# -- sharing ---------------------------------------------------------------------------------------

_Shared = WeakKeyDictionary[asyncio.AbstractEventLoop, dict[StoreUrl, Client]]

_clients: _Shared = WeakKeyDictionary()
_clients_lock = threading.Lock()


def _forget_after_fork() -> None:
    # A forked child must not use its parent's connections; a lock may have been held by a thread that is not here.
    global _clients, _clients_lock
    _clients = WeakKeyDictionary()
    _clients_lock = threading.Lock()


os.register_at_fork(after_in_child=_forget_after_fork)


def acquire(url: StoreUrl) -> Client:
    """Return the client of this loop for a URL, whatever its prefix; made if there is none."""
    loop = asyncio.get_running_loop()
    rest = tuple(option for option in url.options if option[0] != "prefix")
    key = replace(url, options=rest)
    with _clients_lock:
        clients = _clients.setdefault(loop, {})
        client = clients.get(key)
        if client is None:
            client = clients[key] = Client(key)
        client.users += 1
        return client


async def release(client: Client) -> None:
    """Give a client back; with its last user it is closed."""
    with _clients_lock:
        client.users -= 1
        if client.users:
            return
        clients = _clients.get(asyncio.get_running_loop(), {})
        if clients.get(client.url) is client:
            del clients[client.url]
    await client.close()
