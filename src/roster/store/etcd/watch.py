"""A watch of etcd: one stream of its own, read ahead, alive or ended with the reason."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from roster.errors import StoreError, StoreUnavailableError
from roster.store.base import Batch, Change
from roster.store.etcd.failures import FailedError, Failure
from roster.store.etcd.leases import lease_name
from roster.store.etcd.messages import (
    EVENT_DELETE,
    WATCH,
    WatchCreateRequest,
    WatchProgressRequest,
    WatchRequest,
)

if TYPE_CHECKING:
    from roster.store.etcd.client import Client
    from roster.store.etcd.endpoint import Endpoint, Stream
    from roster.store.etcd.past import Past

# The server is asked this often how far the watch has come ...
PROGRESS = 2.5
# ... and whoever has said nothing for this long is frozen or cut off.
SILENCE = 8.0
# Batches read ahead of a slow reader; then gRPC's flow control holds the server back.
AHEAD = 16
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})")


def tells_progress(version: str) -> bool:
    """Whether a server of this version answers a progress request only when the watch has been sent everything before.

    Others may answer first and send older events later: https://github.com/etcd-io/etcd/issues/15220
    """
    found = _VERSION.match(version)
    if found is None:
        return False
    major, minor, patch = (int(number) for number in found.groups())
    needed = {4: 25, 5: 8}.get(minor, 0)
    return major > 3 or (major == 3 and minor >= 4 and patch >= needed)


def decoded(raw: bytes) -> str | None:
    """Return a key as text; None for one that is no UTF-8, which no store of ours has written."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


class Watch(AsyncIterator[Batch]):
    """An open watch. `__anext__` may be cancelled at any moment without losing a batch.

    Args:
        client: whose.
        call: the stream; its watch was created.
        endpoint: where it leads.
        from_revision: the first revision that is wanted.
        doing: what this is, for error messages.
        scope: the first key, and the first after the last.
        past: what is seen is told to it.
    """

    def __init__(
        self,
        client: Client,
        call: Stream,
        endpoint: Endpoint,
        from_revision: int,
        doing: str,
        *,
        scope: tuple[bytes, bytes],
        past: Past,
    ) -> None:
        self._client = client
        self._scope = scope
        self._since = from_revision
        self._past = past
        self._call = call
        self._endpoint = endpoint
        self._doing = doing
        self._token = client.token
        self._position = from_revision - 1
        self._trusted = tells_progress(endpoint.version)
        self._parts: list[Change] = []
        self._batches: deque[Batch] = deque()
        self._readable = asyncio.Event()
        self._room = asyncio.Event()
        self._error: StoreError | None = None
        self._ended = False
        self._tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._ask_progress())]

    async def __anext__(self) -> Batch:
        while not self._ended:
            if self._batches:
                batch = self._batches.popleft()
                self._room.set()
                return batch
            if self._error is not None:
                raise self._error
            self._readable.clear()
            await self._readable.wait()
        raise StopAsyncIteration

    def fail(self, error: StoreError) -> None:
        """End it with an error, after what has been read already."""
        if self._error is None:
            self._error = error
            self._call.cancel()
            for task in self._tasks:
                task.cancel()
        self._readable.set()

    async def end(self) -> None:
        """End it: its context was left."""
        self._ended = True
        self.fail(StoreUnavailableError("this watch was left"))
        await asyncio.wait(self._tasks)

    async def _ask_progress(self) -> None:
        try:
            while True:
                await asyncio.sleep(PROGRESS)
                await self._call.write(WatchRequest(progress_request=WatchProgressRequest()))
        except FailedError:
            pass  # the receiving side hears of it, with the reason

    async def _receive(self) -> None:
        try:
            while True:
                async with asyncio.timeout(SILENCE):
                    response = await self._call.read()
                if response.canceled:
                    raise FailedError(_cancelled(response))
                self._take(response)
                while len(self._batches) >= AHEAD:
                    self._room.clear()
                    await self._room.wait()
        except TimeoutError:
            self._break(Failure.SILENT)
        except FailedError as error:
            self._break(error.failure)

    def _break(self, failure: Failure) -> None:
        client = self._client
        if failure.bad_token:
            client.forget_token(self._token)
        elif failure.away:
            client.distrust(self._endpoint)
        if failure.bad_token or failure.away:
            self.fail(client.away(f"the watch broke: {self._endpoint.name}: {failure.reason}"))
        else:
            self.fail(client.refusal(failure, self._doing))

    def _take(self, response: Any) -> None:
        if not response.events:
            if not (response.created or response.fragment or self._parts):
                # Sent for this watch by the server's own clock, or asked for and answered for the stream.
                told = response.watch_id != -1 or self._trusted
                self._deliver((), response.header.revision if told else 0)
            return
        # A member that was restored may repeat the past: https://github.com/etcd-io/etcd/issues/15271
        news = (event for event in response.events if event.kv.mod_revision > self._position)
        self._parts += [change for event in news if (change := _change(event)) is not None]
        last = response.events[-1].kv.mod_revision
        if response.fragment:
            # The rest of the last revision may be in the next piece.
            last -= 1
        whole = [change for change in self._parts if change.revision <= last]
        self._parts = self._parts[len(whole) :]
        self._deliver(tuple(whole), last)

    def _deliver(self, changes: tuple[Change, ...], revision: int) -> None:
        self._position = max(self._position, revision)
        if changes:
            last = changes[-1]
            self._past.watched(last.key.encode(), last.revision if last.type == "put" else 0, revision)
        else:
            self._past.unchanged(self._scope, self._since, revision)
        if changes or not self._batches:
            self._batches.append(Batch(changes, self._position))
            self._readable.set()


def _change(event: Any) -> Change | None:
    entry = event.kv
    key = decoded(entry.key)
    if key is None:
        return None
    if event.type == EVENT_DELETE:
        return Change("delete", key, entry.mod_revision)
    lease = lease_name(entry.lease)
    return Change("put", key, entry.mod_revision, entry.value, entry.create_revision, lease)


def _cancelled(response: Any) -> Failure:
    """Return why the server ended a watch; it says so in a message, and leaves the stream open."""
    if response.compact_revision:
        return Failure("OUT_OF_RANGE", "required revision has been compacted", response.compact_revision)
    return Failure.of_reason(response.cancel_reason)


async def open_watch(
    client: Client, key: bytes, range_end: bytes, from_revision: int, doing: str, *, past: Past
) -> Watch:
    """Open a watch; nothing is missed from then on.

    Args:
        key: the first key.
        range_end: the first key after the last.
        from_revision: the first revision that is wanted.
        doing: what this is, for error messages.
        past: what is seen is told to it.

    Raises:
        RevisionCompactedError: the revision is not kept.
        StoreUnavailableError: nobody answered in time.
        StoreError: the answer was no.
    """
    create = WatchCreateRequest(
        key=key, range_end=range_end, start_revision=from_revision, progress_notify=True, fragment=True
    )

    async def ask(endpoint: Endpoint, until: float) -> Watch:
        call = endpoint.stream(WATCH, client.metadata())
        try:
            async with asyncio.timeout_at(until):
                await call.write(WatchRequest(create_request=create))
                created = await call.read()
            if created.canceled:
                raise FailedError(_cancelled(created))
        except TimeoutError:
            call.cancel()
            raise FailedError(Failure.SILENT) from None
        except BaseException:
            call.cancel()
            raise
        return Watch(client, call, endpoint, from_revision, doing, scope=(key, range_end), past=past)

    return await client.try_members(ask, doing, repeatable=True)
