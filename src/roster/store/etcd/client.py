"""The client of one etcd cluster: which member to ask, who we are, and what may be asked twice."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from roster.errors import StoreDeniedError, StoreError, StoreUnavailableError
from roster.store.etcd.endpoint import Endpoint, Metadata, credentials
from roster.store.etcd.failures import FailedError, Failure, refusal
from roster.store.etcd.leases import KeepAlives
from roster.store.etcd.messages import AUTHENTICATE, STATUS, AuthenticateRequest, Method, StatusRequest
from roster.store.url import StoreUrl

T = TypeVar("T")

# Members that elect a leader, or a lone server that broke off, are asked again after up to this many seconds.
ELECTION_PAUSE = 0.2


def jitter() -> float:
    """Return seconds to wait, other ones each time: those that lost a server together do not come back together."""
    return random.uniform(0, ELECTION_PAUSE)  # noqa: S311 - no secret


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
        secure = _secure(url)
        self._endpoints = [Endpoint(host, port, secure, self.timeout) for host, port in url.hosts]
        # Clients spread over the members.
        self._next = random.randrange(len(self._endpoints))  # noqa: S311 - no secret
        self._current: Endpoint | None = None
        self._connecting = asyncio.Lock()
        self.token: str | None = None  # empty: there are no users there
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

        async def ask(endpoint: Endpoint, until: float) -> Any:
            return await self._call(endpoint, method, request, until, last=False)

        return await self.try_members(ask, doing, repeatable=True)

    async def write(self, method: Method, request: Any, doing: str) -> Any:
        """Ask once; again only where it is certain that nothing was done.

        Raises:
            StoreUnavailableError: nobody answered in time; it may have been done.
            StoreError: the answer was no.
        """

        async def ask(endpoint: Endpoint, until: float) -> Any:
            return await self._call(endpoint, method, request, until, last=True)

        return await self.try_members(ask, doing, repeatable=False)

    async def try_members(
        self, ask: Callable[[Endpoint, float], Awaitable[T]], doing: str, *, repeatable: bool
    ) -> T:
        """Ask one member and, where that is safe and would help, another one or the same with a new token.

        Args:
            ask: asks a member, until a time of the loop's clock; raises `FailedError`.
            doing: what this is, for error messages.
            repeatable: whether it may be asked twice.

        Raises:
            StoreUnavailableError: nobody answered in time.
            StoreError: the answer was no.
        """
        until = self._loop.time() + self.timeout
        renewed = False
        while True:
            endpoint = await self.connect(until)
            token = self.token
            try:
                return await ask(endpoint, until)
            except FailedError as error:
                failure = error.failure
            if failure.bad_token and self.url.username and not renewed:
                renewed = True
                self.forget_token(token)
                continue
            if not failure.away:
                raise self.refusal(failure, doing)
            self.distrust(endpoint)
            safe = repeatable or failure.not_done
            pause = jitter()
            if not safe or self._loop.time() + pause >= until:
                reason = f"{endpoint.name}: {failure.reason}"
                raise self.away(reason if safe else f"{reason}; it is not known whether it did {doing}")
            await asyncio.sleep(pause if failure.no_leader or len(self._endpoints) == 1 else 0)

    async def _call(
        self, endpoint: Endpoint, method: Method, request: Any, until: float, *, last: bool
    ) -> Any:
        """Ask one member, for all of the time that is left or, where there are others, for half of it."""
        left = until - self._loop.time()
        share = left if last or len(self._endpoints) == 1 else left / 2
        return await endpoint.call(method, request, max(share, 0.001), self.metadata())

    # -- members -----------------------------------------------------------------------------------

    async def connect(self, until: float) -> Endpoint:
        """Return a member that answers and knows a leader, with a token in hand if there is a user.

        Args:
            until: give up at this time of the loop's clock.

        Raises:
            StoreUnavailableError: there is none.
            StoreDeniedError: user or password is wrong.
        """
        if self._current is not None:
            return self._current
        if self.closed:
            raise StoreUnavailableError(f"this client of {self.url.display} is closed: open another")
        try:
            async with asyncio.timeout_at(until), self._connecting:
                return await self._search(until)
        except TimeoutError:
            raise self.away(f"no answer within {self.timeout:g} s") from None

    def distrust(self, endpoint: Endpoint) -> None:
        """Ask another member next time: this one failed, or fell silent."""
        if self._current is endpoint:
            self._current = None
            self._next = (self._endpoints.index(endpoint) + 1) % len(self._endpoints)

    async def _search(self, until: float) -> Endpoint:
        """Go from member to member until one will do; while they elect a leader, go round again."""
        if self._current is not None:
            return self._current
        while True:
            failures: list[tuple[Endpoint, Failure]] = []
            for endpoint in self._in_order():
                last = len(failures) == len(self._endpoints) - 1
                failure = await self._try(endpoint, until, last=last)
                if failure is None:
                    self._current = endpoint
                    return endpoint
                failures.append((endpoint, failure))
            pause = jitter()
            electing = any(failure.no_leader for _, failure in failures)
            if not electing or self._loop.time() + pause >= until:
                alone = len(failures) == 1
                raise self.away(
                    "; ".join(
                        failure.reason if alone else f"{endpoint.name}: {failure.reason}"
                        for endpoint, failure in failures
                    )
                )
            await asyncio.sleep(pause)

    def _in_order(self) -> Iterator[Endpoint]:
        start = self._next
        for number in range(len(self._endpoints)):
            yield self._endpoints[(start + number) % len(self._endpoints)]

    async def _try(self, endpoint: Endpoint, until: float, *, last: bool) -> Failure | None:
        """Return why this member will not do, None if it will."""
        try:
            status = await self._call(endpoint, STATUS, StatusRequest(), until, last=last)
            endpoint.version = status.version
            if not status.leader:
                return Failure.NO_LEADER
            if status.isLearner:
                return Failure.LEARNER
            if self.url.username and self.token is None:
                await self._authenticate(endpoint, until, last=last)
        except FailedError as error:
            failure = error.failure
            if failure.away or failure.code == "UNIMPLEMENTED":
                return failure
            if not failure.bad_token:
                raise self.refusal(failure, "connect") from None
            # A member that asks even here who we are has answered all the same.
            self.token = None
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
        return (leader, ("token", self.token)) if self.token else (leader,)

    def forget_token(self, token: str | None) -> None:
        """Have another token made before the next request, unless this one is not in use any more."""
        if self.token == token:
            self.token = None
            if self._current is not None:
                self._next = self._endpoints.index(self._current)
                self._current = None

    async def _authenticate(self, endpoint: Endpoint, until: float, *, last: bool) -> None:
        request = AuthenticateRequest(name=self.url.username, password=self.url.password or "")
        try:
            answer = await self._call(endpoint, AUTHENTICATE, request, until, last=last)
            self.token = answer.token
        except FailedError as error:
            if "authentication is not enabled" not in error.failure.text:
                raise
            self.token = ""

    def away(self, reason: str) -> StoreUnavailableError:
        """Return the error for a store that cannot be asked."""
        return StoreUnavailableError(f"the store {self.url.display} is out of reach: {reason}")

    def refusal(self, failure: Failure, doing: str) -> StoreError:
        """Return the error for a request that was answered with a no."""
        return refusal(failure, self.url.display, self.who, doing)

    async def close(self) -> None:
        """End all connections."""
        self.closed = True
        self._current = None
        await self.keep_alives.close()
        for endpoint in self._endpoints:
            await endpoint.close()


def _secure(url: StoreUrl) -> Any | None:
    if url.tls is None:
        return None
    try:
        return credentials(url.tls)
    except OSError as error:
        files = ", ".join(str(file) for file in (url.tls.ca, url.tls.cert, url.tls.key) if file)
        raise StoreDeniedError(
            f"the TLS files of {url.display} cannot be used ({error.strerror or error}): {files}"
        ) from error


# -- sharing ---------------------------------------------------------------------------------------

_clients: dict[asyncio.AbstractEventLoop, dict[StoreUrl, Client]] = {}
_clients_lock = threading.Lock()
_used = False
_forked = False


def _after_fork() -> None:
    # The threads of gRPC stay behind in the parent: in the child every call would be silent until its deadline.
    global _clients_lock, _forked
    _clients.clear()
    _clients_lock = threading.Lock()  # the old one may have been held by a thread that is not here
    _forked = _used


os.register_at_fork(after_in_child=_after_fork)


def acquire(url: StoreUrl) -> Client:
    """Return the client of this loop for a URL, whatever its prefix; made if there is none.

    Raises:
        StoreDeniedError: a TLS file cannot be read.
        StoreUnavailableError: this process was forked from one that used etcd.
    """
    global _used
    if _forked:
        raise StoreUnavailableError(
            f"{url.display} cannot be used here: this process was forked from one that used etcd, and gRPC does not "
            "survive that: start it with multiprocessing's 'spawn', or open stores after the fork only"
        )
    _used = True
    key = replace(url, options=tuple(option for option in url.options if option[0] != "prefix"))
    with _clients_lock:
        for loop in [loop for loop in _clients if loop.is_closed()]:
            del _clients[loop]
        clients = _clients.setdefault(asyncio.get_running_loop(), {})
        if key not in clients:
            clients[key] = Client(key)
        clients[key].users += 1
        return clients[key]


async def release(client: Client) -> None:
    """Give a client back; with its last user it is closed."""
    with _clients_lock:
        client.users -= 1
        if client.users:
            return
        del _clients[asyncio.get_running_loop()][client.url]
    await client.close()
