"""What no real etcd does on demand: a server that answers by a script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio  # type: ignore[import-untyped]  # grpcio ships no types
import pytest
from tests.store.etcd.conftest import until

from roster.errors import StoreDeniedError, StoreError, StoreUnavailableError
from roster.store import Batch, open_store
from roster.store.etcd import watch
from roster.store.etcd.messages import GRANT, KEEP_ALIVE, RANGE, STATUS, TXN, WATCH, Method

Say = Callable[..., Awaitable[None]]
Script = Callable[[Say, Any], Awaitable[None]]
HEADER = {"cluster_id": 1, "revision": 10}


class Scripted:
    """A server whose streams follow a script.

    Attributes:
        version: what it says it is.
        leader: the leader that it knows, 0 for none.
        stream: called for each stream with a function that sends an answer, and with the call.
        unary: an answer to all but the question for its state, bytes; None: a good one.
        writes: how many transactions it was asked for.
    """

    def __init__(self) -> None:
        self.version = "3.5.16"
        self.leader = 1
        self.stream: Script | None = None
        self.unary: bytes | None = None
        self.writes = 0
        self.url = ""

    def service(self, details: Any) -> Any:
        for method in (WATCH, KEEP_ALIVE):
            if details.method == method.path:
                return grpc.stream_stream_rpc_method_handler(self._streaming(method))
        return grpc.unary_unary_rpc_method_handler(self._answering(details.method))

    def _answering(self, path: str) -> Callable[[bytes, Any], Awaitable[bytes]]:
        async def answer(request: bytes, call: Any) -> bytes:
            if path == STATUS.path:
                return _bytes(STATUS.response(header=HEADER, version=self.version, leader=self.leader))
            self.writes += path == TXN.path
            if self.unary is not None:
                return self.unary
            if path == GRANT.path:
                return _bytes(GRANT.response(header=HEADER, ID=7, TTL=30))
            return _bytes(RANGE.response(header=HEADER))

        return answer

    def _streaming(self, method: Method) -> Callable[[Any, Any], Awaitable[None]]:
        async def run(requests: Any, call: Any) -> None:
            assert self.stream is not None

            async def say(**answer: Any) -> None:
                await call.write(_bytes(method.response(**{"header": HEADER, **answer})))

            await call.read()
            await self.stream(say, call)

        return run


def _bytes(message: Any) -> bytes:
    raw: bytes = message.SerializeToString()
    return raw


@pytest.fixture
async def scripted() -> AsyncIterator[Scripted]:
    script = Scripted()

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio ships no types
        def service(self, details: Any) -> Any:
            return script.service(details)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handler(),))
    script.url = f"etcd://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}/?timeout=1"
    await server.start()
    yield script
    await server.stop(None)


@asynccontextmanager
async def _watching(script: Scripted, from_revision: int = 11) -> AsyncIterator[AsyncIterator[Batch]]:
    async with (
        open_store(script.url) as store,
        store.watch("/", from_revision=from_revision) as batches,
        asyncio.timeout(10),
    ):
        yield batches


def _events(*places: tuple[str, int]) -> list[dict[str, Any]]:
    return [
        {"kv": {"key": key.encode(), "mod_revision": revision, "create_revision": revision}}
        for key, revision in places
    ]


async def test_a_revision_that_is_cut_in_two_is_put_together(scripted: Scripted) -> None:
    async def stream(say: Say, call: Any) -> None:
        await say(created=True)
        await say(fragment=True, events=_events(("/a", 11), ("/b", 11)))
        await say(fragment=True, events=_events(("/c", 11)))
        await say(watch_id=-1, header={"revision": 12})  # between the pieces it says nothing of them
        await say(fragment=True, events=_events(("/d", 11), ("/e", 12), ("/f", 13)))
        await say(events=_events(("/g", 13)))
        await call.read()

    scripted.stream = stream
    told = 10
    changes: list[tuple[str, int]] = []
    async with _watching(scripted) as batches:
        while len(changes) < 7:
            batch = await anext(batches)
            assert all(told < change.revision <= batch.revision for change in batch.changes)
            told = batch.revision
            changes += [(change.key, change.revision) for change in batch.changes]
    assert changes == [("/a", 11), ("/b", 11), ("/c", 11), ("/d", 11), ("/e", 12), ("/f", 13), ("/g", 13)]


async def test_the_past_is_not_told_twice(scripted: Scripted) -> None:
    async def stream(say: Say, call: Any) -> None:
        await say(created=True)
        await say(events=_events(("/old", 9), ("/a", 11)))
        await say(events=_events(("/a", 11), ("/b", 12)))
        await call.read()

    scripted.stream = stream
    async with _watching(scripted) as batches:
        seen: list[tuple[str, int]] = []
        while len(seen) < 2:
            seen += [(change.key, change.revision) for change in (await anext(batches)).changes]
    assert seen == [("/a", 11), ("/b", 12)]


@pytest.mark.parametrize(("version", "told"), [("3.5.16", 20), ("3.5.7", 10)])
async def test_progress_of_a_server_that_may_run_ahead_is_not_believed(
    scripted: Scripted, version: str, told: int
) -> None:
    async def stream(say: Say, call: Any) -> None:
        await say(created=True)
        await say(watch_id=-1, header={"revision": 20})
        await taken.wait()
        await say(events=_events(("/a", 21)))
        await say(watch_id=0, header={"revision": 30})
        await call.read()

    taken = asyncio.Event()
    scripted.version = version
    scripted.stream = stream
    async with _watching(scripted) as batches:
        bookmark = await anext(batches)
        taken.set()
        batch = await anext(batches)
    assert (bookmark.changes, bookmark.revision) == ((), told)
    assert ([change.key for change in batch.changes], batch.revision) == (["/a"], 21)


@pytest.mark.parametrize(
    ("reason", "kind", "words"),
    [
        (
            "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token",
            StoreUnavailableError,
            "broke",
        ),
        (
            "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
            StoreDeniedError,
            "may not",
        ),
        ("etcdserver: no leader", StoreUnavailableError, "no leader"),
        ("", StoreUnavailableError, "broke"),
    ],
)
async def test_a_watch_that_is_cancelled_by_a_message_ends(
    scripted: Scripted, reason: str, kind: type[StoreError], words: str
) -> None:
    """etcd leaves the stream open and silent then."""

    async def stream(say: Say, call: Any) -> None:
        await say(created=True)
        await say(canceled=True, cancel_reason=reason)
        await call.read()

    scripted.stream = stream
    async with _watching(scripted) as batches:
        with pytest.raises(kind, match=words):
            await anext(batches)


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL]
)
async def test_a_stream_that_the_server_ends_is_an_error_and_not_a_cancellation(
    scripted: Scripted, code: grpc.StatusCode
) -> None:
    async def stream(say: Say, call: Any) -> None:
        await say(created=True)
        await call.abort(code, "enough")

    scripted.stream = stream
    async with _watching(scripted) as batches:
        with pytest.raises(StoreUnavailableError, match="the watch broke"):
            await anext(batches)


@pytest.mark.parametrize("code", [grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE])
async def test_a_keep_alive_whose_stream_the_server_ends_is_unconfirmed(
    scripted: Scripted, code: grpc.StatusCode
) -> None:
    async def stream(say: Say, call: Any) -> None:
        await call.abort(code, "enough")

    scripted.stream = stream
    async with open_store(scripted.url) as store:
        lease = await store.grant(30)
        with pytest.raises(StoreUnavailableError, match="could not be kept alive"):
            await lease.keep_alive()
        assert not lease.lost


async def test_answers_that_cannot_be_read_are_no_answers(scripted: Scripted) -> None:
    async def stream(say: Say, call: Any) -> None:
        await say(created=True)
        await call.write(b"\xff\xff\xff")
        await call.read()

    scripted.stream = stream
    async with _watching(scripted) as batches:
        with pytest.raises(StoreUnavailableError, match="cannot be read"):
            await anext(batches)
    scripted.unary = b"\xff\xff\xff"
    async with open_store(scripted.url) as store:
        with pytest.raises(StoreUnavailableError, match="cannot be read"):
            await store.get("/a")
        with pytest.raises(StoreUnavailableError, match="not known whether"):
            await store.put("/a", b"")
    assert scripted.writes == 1


async def test_a_failed_transaction_that_names_no_condition_is_not_a_success(scripted: Scripted) -> None:
    scripted.unary = _bytes(TXN.response(header=HEADER, succeeded=False))
    async with open_store(scripted.url) as store:
        with pytest.raises(StoreUnavailableError, match="which condition"):
            await store.put("/a", b"", if_revision=3)


async def test_a_server_that_lives_but_forgets_the_watch_is_noticed(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stream(say: Say, call: Any) -> None:
        await say(created=True)
        await asyncio.Event().wait()

    monkeypatch.setattr(watch, "SILENCE", 0.3)
    scripted.stream = stream
    async with _watching(scripted) as batches:
        with pytest.raises(StoreUnavailableError, match="no answer in time"):
            await anext(batches)


async def test_no_more_is_read_ahead_than_was_agreed(scripted: Scripted) -> None:
    async def stream(say: Say, call: Any) -> None:
        await say(created=True)
        for number in range(100):
            await say(events=_events(("/a", 11 + number)))
        sent.set()
        await call.read()

    sent = asyncio.Event()
    scripted.stream = stream
    async with _watching(scripted) as batches:
        assert isinstance(batches, watch.Watch)
        await sent.wait()
        await until(lambda: len(batches._batches) == watch.AHEAD)
        seen = [(await anext(batches)).revision for _ in range(100)]
    assert seen == list(range(11, 111))


async def test_a_store_that_is_closed_while_its_watch_opens_has_no_watch(scripted: Scripted) -> None:
    async def stream(say: Say, call: Any) -> None:
        asked.set()
        await closed.wait()
        await say(created=True)
        await call.read()

    asked, closed = asyncio.Event(), asyncio.Event()
    scripted.stream = stream
    async with open_store(scripted.url) as sharing, asyncio.timeout(10):
        await sharing.get("/a")
        store = open_store(scripted.url)
        opening = asyncio.ensure_future(store.watch("/", from_revision=11).__aenter__())
        await asked.wait()
        await store.close()
        closed.set()
        with pytest.raises(StoreUnavailableError, match="closed"):
            await opening


async def test_a_keep_alive_is_sent_again_on_another_stream(scripted: Scripted) -> None:
    async def stream(say: Say, call: Any) -> None:
        streams.append(call)
        if len(streams) == 1:
            await call.abort(grpc.StatusCode.UNAVAILABLE, "enough")
        await say(ID=7, TTL=30)
        await call.read()

    streams: list[Any] = []
    scripted.stream = stream
    async with open_store(scripted.url) as store:
        await (await store.grant(30)).keep_alive()
    assert len(streams) == 2


async def test_a_silent_stream_of_keep_alives_is_given_up(scripted: Scripted) -> None:
    async def stream(say: Say, call: Any) -> None:
        streams.append(call)
        if len(streams) > 1:
            await say(ID=7, TTL=30)
        await asyncio.Event().wait()

    streams: list[Any] = []
    scripted.stream = stream
    async with open_store(scripted.url) as store:
        lease = await store.grant(30)
        with pytest.raises(StoreUnavailableError, match="no answer in time"):
            await lease.keep_alive()
        await lease.keep_alive()
    assert len(streams) == 2


async def test_a_member_without_a_leader_is_not_asked(scripted: Scripted) -> None:
    scripted.leader = 0
    async with open_store(scripted.url) as store:
        with pytest.raises(StoreUnavailableError, match="no leader"):
            await store.put("/a", b"")
    assert scripted.writes == 0
