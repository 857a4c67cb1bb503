"""Consul killed, frozen, wiped, restored, out of reach, or something else than Consul."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from tests.store.consul.conftest import Owner, until

from roster._clock import boottime
from roster.errors import RevisionCompactedError, StoreError, StoreUnavailableError
from roster.store import Check, Put, store_url
from roster.store.consul import ConsulStore
from servers import Consul

# What no error may show.
TOKEN = "11111111-2222-3333-4444-555555555555"


def _store(address: str, timeout: int = 1) -> ConsulStore:
    return ConsulStore(store_url(f"{address}?timeout={timeout}"))


async def test_a_restarting_consul_never_shows_an_existing_key_as_gone(
    start_consul: Callable[..., Consul],
) -> None:
    """Reads that are not consistent found no keys for 0.4 s after a restart, the leader known, the index gone back."""
    server = await asyncio.to_thread(start_consul)
    async with _store(server.url) as store:
        await store.transact((), [Put(f"/ai-team/{number}", b"x") for number in range(40)])
        # Deletions, too, must not come back.
        for number in range(20, 40):
            await store.delete(f"/ai-team/{number}")
        position = (await store.list("/ai-team/")).revision
        present = {f"/ai-team/{number}" for number in range(20)}
        answered = wanted = 0
        stop = asyncio.Event()

        async def hammer() -> None:
            nonlocal answered
            while not stop.is_set():
                try:
                    page = await store.list("/ai-team/")
                    assert {entry.key for entry in page.entries} == present
                    assert page.revision >= position
                    assert await store.get("/ai-team/7") is not None
                    assert await store.get("/ai-team/27") is None
                    answered += 1
                except StoreUnavailableError:
                    await asyncio.sleep(0.005)

        async def enough() -> bool:
            return answered > wanted

        async def follow() -> None:
            nonlocal position
            while not stop.is_set():
                try:
                    async with store.watch("/ai-team/", from_revision=position + 1) as batches:
                        while not stop.is_set():
                            batch = await anext(batches)
                            assert all(change.value is not None for change in batch.changes)
                            assert not batch.snapshot or {change.key for change in batch.changes} == present
                            position = batch.revision
                except StoreUnavailableError:
                    await asyncio.sleep(0.005)

        async with asyncio.TaskGroup() as group:
            group.create_task(hammer())
            following = group.create_task(follow())
            for _ in range(2):
                await asyncio.to_thread(server.restart)
                wanted = answered + 50
                await until(enough)
            stop.set()
            following.cancel()


async def _drain(batches: AsyncIterator[object]) -> None:
    async for _ in batches:
        pass


async def test_a_frozen_consul_is_noticed_and_a_thawed_one_served_again(
    start_consul: Callable[..., Consul],
) -> None:
    server = await asyncio.to_thread(start_consul, dev=True)
    async with _store(server.url) as store:
        lease = await store.grant(60)
        revision = await store.put("/ai-team/a", b"1", lease=lease.id)
        await store.list("/ai-team/")
        async with store.watch("/ai-team/", from_revision=revision + 1) as batches:
            waiting = asyncio.ensure_future(anext(batches))
            await asyncio.sleep(0.05)
            server.freeze()
            frozen = boottime()
            for attempt in (store.get("/ai-team/a"), store.put("/ai-team/b", b""), lease.keep_alive()):
                began = boottime()
                with pytest.raises(StoreUnavailableError, match="did not answer within 1 s"):
                    await attempt
                assert boottime() - began < 2
            with pytest.raises(StoreUnavailableError):
                await waiting
            assert boottime() - frozen < 10
        server.thaw()
        await lease.keep_alive()
        async with store.watch("/ai-team/", from_revision=revision + 1) as batches:
            new = await store.put("/ai-team/a", b"2", lease=lease.id)
            async with asyncio.timeout(10):
                while (await anext(batches)).revision < new:
                    pass


async def test_a_wiped_consul_is_another_one(start_consul: Callable[..., Consul]) -> None:
    server = await asyncio.to_thread(start_consul)
    async with _store(server.url) as store:
        await store.put("/ai-team/a", b"")
        for number in range(30):
            await store.put("/elsewhere", b"%d" % number)
        before = await store.info()
        assert dict(before.details)["version"]
        await asyncio.to_thread(server.restart)
        after = await store.info()
        assert after.cluster_id == before.cluster_id
        assert after.revision >= before.revision
        async with store.watch("/ai-team/", from_revision=before.revision + 1) as batches:
            await asyncio.to_thread(server.wipe)
            with pytest.raises(StoreError):
                await asyncio.wait_for(_drain(batches), 10)
        assert (await store.info()).cluster_id != before.cluster_id
        with pytest.raises(RevisionCompactedError):
            async with store.watch("/ai-team/", from_revision=before.revision + 1):
                pass


async def test_a_consul_restored_from_a_backup_under_an_open_watch_is_said(
    start_consul: Callable[..., Consul],
) -> None:
    server = await asyncio.to_thread(start_consul, dev=True)
    owner = Owner(store_url(server.url))
    async with _store(server.url, 5) as store:
        await store.put("/ai-team/old", b"")
        backup = await asyncio.to_thread(owner.raw, "GET", "/v1/snapshot")
        for number in range(5):
            await store.put("/ai-team/new", b"%d" % number)
        page = await store.list("/ai-team/")
        async with store.watch("/ai-team/", from_revision=page.revision + 1) as batches:
            waiting = asyncio.ensure_future(_drain(batches))
            await asyncio.sleep(0.05)
            await asyncio.to_thread(owner.raw, "PUT", "/v1/snapshot", backup)
            with pytest.raises(RevisionCompactedError):
                await asyncio.wait_for(waiting, 15)
        assert [entry.key for entry in (await store.list("/ai-team/")).entries] == ["/ai-team/old"]


async def test_the_next_host_is_asked_when_one_is_away(
    start_consul: Callable[..., Consul], silent: int, closed: int
) -> None:
    server = await asyncio.to_thread(start_consul, dev=True)
    port = server.http_port
    async with _store(f"consul://127.0.0.1:{closed},127.0.0.1:{port}") as store:
        began = boottime()
        assert await store.put("/ai-team/a", b"")
        lease = await store.grant(30)
        await lease.keep_alive()
        assert boottime() - began < 1
        await lease.revoke()
    async with _store(f"consul://127.0.0.1:{silent},127.0.0.1:{port}") as store:
        with pytest.raises(StoreUnavailableError, match=str(silent)):
            await store.put("/ai-team/a", b"")
        for _ in range(3):
            assert await store.get("/ai-team/a")
    async with _store(f"consul://127.0.0.1:{port},127.0.0.1:{closed}") as store:
        lease = await store.grant(30)
        server.kill()
        with pytest.raises(StoreUnavailableError):
            await lease.keep_alive()
        assert not lease.lost


@pytest.fixture
def closed() -> Iterator[int]:
    """A port at which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield listening.getsockname()[1]


async def test_hosts_have_names(consul_server: str) -> None:
    async with _store(consul_server.replace("127.0.0.1", "localhost")) as store:
        assert "localhost" in store.url
        await store.info()


async def test_whatever_is_wrong_is_one_clear_line_in_time(closed: int, silent: int) -> None:
    said = {}
    for name, address in {
        "closed": f"consul://{TOKEN}@127.0.0.1:{closed}",
        "silent": f"consul://{TOKEN}@127.0.0.1:{silent}",
        "unknown": f"consul://{TOKEN}@no-such-host.invalid:8500",
        "impossible": f"consul://{TOKEN}@..:8500",
        "several": f"consul://{TOKEN}@127.0.0.1:{closed},127.0.0.1:{closed}",
        "no TLS": f"consuls://{TOKEN}@127.0.0.1:{silent}",
    }.items():
        async with _store(address) as store:
            began = boottime()
            outcomes = await asyncio.gather(
                store.get("/ai-team/a"),
                store.list("/ai-team/"),
                store.put("/ai-team/a", b""),
                store.info(),
                store.grant(30),
                store.grant(30, lingering=True),
                store.watch("/ai-team/", from_revision=1).__aenter__(),
                return_exceptions=True,
            )
            assert boottime() - began < 2.5
            assert {type(outcome) for outcome in outcomes} == {StoreUnavailableError}
            (said[name],) = {str(outcome) for outcome in outcomes}
    assert "refused" in said["closed"].lower()
    assert "did not answer within 1 s" in said["silent"]
    assert "no-such-host.invalid is unknown" in said["unknown"]
    assert "unknown" in said["impossible"]
    assert all("\n" not in text and TOKEN not in text and len(text) < 300 for text in said.values()), said


@contextlib.asynccontextmanager
async def _listening(*answers: bytes) -> AsyncIterator[tuple[str, list[str]]]:
    """Something that gives its answers in turn, the last one for ever; what it was asked for is in the list."""
    asked: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            asked.append(head.splitlines()[0])
            writer.write(answers[min(len(asked), len(answers)) - 1])
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"consul://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


def _http(body: bytes, status: str = "200 OK", index: str = "X-Consul-Index: 7\r\n") -> bytes:
    return (
        f"HTTP/1.1 {status}\r\n{index}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
        + body
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"220 mail.example ESMTP\r\n",
        b"\x15\x03\x03\x00\x02\x02\x46",
        _http(b""),
        _http(b"<html>\x1b[31m"),
        _http(b"null"),
        _http(b"7"),
        _http(b"{}"),
        _http(b"[]", index=""),
        _http(b"[]", index="X-Consul-Index: -1\r\n"),
        _http(b"[]", index="X-Consul-Index: 9999999999999999999999\r\n"),
        _http(b"[7]"),
        _http(b"[{}]"),
        _http(b'[{"Key": 7}]'),
        _http(b'[{"Key": "a", "CreateIndex": 1, "ModifyIndex": 1, "Value": "x"}]'),
        _http(b'[{"Key": "a", "CreateIndex": "1", "ModifyIndex": 1}]'),
        _http(b'[{"Key": "a", "CreateIndex": 1, "ModifyIndex": 1}'),
        _http(b'{"Results": 7}'),
        _http(b'{"Results": [7]}'),
        _http(b'{"Results": [{"KV": 7}]}'),
        _http(b'{"Errors": null}', "409 Conflict"),
        _http(b'{"Errors": [7]}', "409 Conflict"),
        _http(b'{"Errors": [{"OpIndex": 99, "What": "invalid session"}]}', "409 Conflict"),
        _http(b"[" * 100_000),
        _http(b"No cluster leader", "500 Internal Server Error", ""),
        _http(b"\x1b[31m" * 1000, "502 Bad Gateway"),
        _http(b"", "301 Moved Permanently\r\nLocation: http://127.0.0.1:1/"),
        _http(b"Client sent an HTTP request to an HTTPS server.\n", "400 Bad Request", ""),
    ],
)
async def test_what_is_not_consul_is_no_store(content: bytes) -> None:
    async with _listening(content) as (address, _), _store(address) as store:
        outcomes = await asyncio.gather(
            store.get("/ai-team/a"),
            store.list("/ai-team/"),
            store.put("/ai-team/a", b"", if_revision=0),
            store.put("/ai-team/a", b""),
            store.delete("/ai-team/a"),
            store.info(),
            store.grant(30),
            store.grant(30, lingering=True),
            return_exceptions=True,
        )
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            assert isinstance(outcome, StoreUnavailableError), repr(outcome)
            assert str(outcome).isprintable()


async def test_every_read_is_consistent() -> None:
    """The window in which other reads lie is too short to be met each time: what is asked for is held here."""
    async with _listening(_http(b"[]")) as (address, asked), _store(address) as store:
        await store.list("/ai-team/")
        with pytest.raises(StoreUnavailableError):
            await store.get("/ai-team/a")
        with pytest.raises(StoreUnavailableError):
            await store.transact([Check("/ai-team/a", 1)], [])
        with contextlib.suppress(StoreError):
            await store.info()
        async with store.watch("/ai-team/", from_revision=8) as batches:
            # What answers here does not wait: that must not make a busy loop.
            before = len(asked)
            await anext(batches)
            await anext(batches)
            assert len(asked) - before < 10
    reads = [line for line in asked if "/v1/kv" in line or "/v1/txn" in line]
    assert len(reads) > 5
    assert all("consistent=" in line and "stale" not in line for line in reads), reads


async def test_a_read_that_was_cut_off_is_sent_again_and_a_write_is_not() -> None:
    absent = _http(b'{"Results":null,"Errors":[{"OpIndex":0,"What":"key doesn\'t exist"}]}', "409 Conflict")
    async with _listening(b"", absent) as (address, asked), _store(address) as store:
        assert await store.get("/ai-team/a") is None
        assert len(asked) == 2
    # It may have been done: sent again, a conditional write would find itself in its way.
    async with _listening(b"", _http(b'{"Results":[]}')) as (address, asked), _store(address) as store:
        with pytest.raises(StoreUnavailableError, match="broke"):
            await store.put("/ai-team/a", b"", if_revision=0)
        assert len(asked) == 1


async def test_hundreds_of_requests_and_watches_stay_below_consuls_limit(
    consul_server: str, root: str
) -> None:
    """An agent resets what one address opens beyond 200 connections."""
    stores = [ConsulStore(store_url(consul_server)) for _ in range(20)]
    start = (await stores[0].info()).revision
    async with contextlib.AsyncExitStack() as stack:
        watches = [
            await stack.enter_async_context(
                stores[number % 20].watch(f"{root}{number}", from_revision=start + 1)
            )
            for number in range(60)
        ]
        waiting = [asyncio.ensure_future(_first_change(watch)) for watch in watches]
        async with asyncio.timeout(40):
            await asyncio.gather(
                *(stores[number % 20].put(f"{root}{number % 60}", b"%d" % number) for number in range(500))
            )
            assert all(await asyncio.gather(*waiting))
    for store in stores:
        await store.close()


async def _first_change(batches: AsyncIterator[object]) -> bool:
    async for batch in batches:
        if getattr(batch, "changes", ()):
            return True
    return False
