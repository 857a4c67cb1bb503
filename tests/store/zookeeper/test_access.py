"""Who may do what, TLS, and servers that are not what they should be: one clear line each, and no secret in it."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.security import make_digest_acl
from tests.store.zookeeper.conftest import client, threads, until

from roster._clock import boottime
from roster.errors import ConfigError, StoreDeniedError, StoreError, StoreUnavailableError
from roster.store import MAX_VALUE_BYTES, Put, store_url
from roster.store.zookeeper import ZookeeperStore
from servers import Certificates, ZooKeeper

Start = Callable[..., ZooKeeper]
SECRET = "s3cret-p4ss"


# --- digest authentication


async def test_what_we_make_is_ours_and_others_may_read(start_zookeeper: Start) -> None:
    server = await asyncio.to_thread(start_zookeeper, fsync=False)
    key = "/ai-team/nodes/default/a"
    async with (
        client(server.url_of("writer", SECRET)) as writer,
        client(server.url_of("writer", SECRET)) as same,
        client(server.url_of("writer", "wrong-one")) as wrong,
        client(server.url) as nobody,
    ):
        lease = await writer.grant(5)
        await writer.put(key, b"1")
        await writer.put(key + "-status", b"1", lease=lease.id)
        await same.put(key, b"2")
        await same.put(key + "-status", b"2", lease=lease.id)
        for other in (wrong, nobody):
            entry = await other.get(key)
            assert entry is not None
            assert entry.value == b"2"
            assert len((await other.list("/ai-team/")).entries) == 2
            async with other.watch("/ai-team/", from_revision=1) as batches:
                assert len((await anext(batches)).changes) == 2
            for attempt in (
                other.put(key, b"3"),
                other.delete(key),
                other.put("/ai-team/nodes/default/b", b""),
                other.put("/ai-team/deep/er", b""),
            ):
                with pytest.raises(StoreDeniedError) as caught:
                    await attempt
                assert "\n" not in str(caught.value)
                assert server.address in str(caught.value)
                assert not {SECRET, "wrong-one"} & set(str(caught.value).replace(":", " ").split())
        # Without credentials everybody may do everything, as everywhere in ZooKeeper.
        await nobody.put("/open/a", b"1")
        await writer.put("/open/a", b"2")


async def test_several_users_share_a_directory_that_was_made_for_them(start_zookeeper: Start) -> None:
    server = await asyncio.to_thread(start_zookeeper, fsync=False)

    def prepare() -> None:
        acl = [make_digest_acl(user, f"{user}-{SECRET}", all=True) for user in ("one", "two")]
        kazoo = KazooClient(server.address, auth_data={("digest", f"one:one-{SECRET}")})
        kazoo.start(timeout=10)
        kazoo.ensure_path("/ai-team/nodes/default", acl=acl)
        kazoo.stop()
        kazoo.close()

    await asyncio.to_thread(prepare)
    async with (
        client(server.url_of("one", f"one-{SECRET}")) as one,
        client(server.url_of("two", f"two-{SECRET}")) as two,
    ):
        await one.put("/ai-team/nodes/default/a", b"1")
        await two.put("/ai-team/nodes/default/b", b"1")
        with pytest.raises(StoreDeniedError):
            await two.put("/ai-team/nodes/default/a", b"2")


async def test_what_may_not_be_read_is_said(start_zookeeper: Start) -> None:
    server = await asyncio.to_thread(start_zookeeper, fsync=False)

    def prepare() -> None:
        kazoo = KazooClient(server.address, auth_data={("digest", f"one:{SECRET}")})
        kazoo.start(timeout=10)
        kazoo.create("/ai-team/closed", b"1", acl=[make_digest_acl("one", SECRET, all=True)], makepath=True)
        kazoo.stop()
        kazoo.close()

    await asyncio.to_thread(prepare)
    async with client(server.url) as nobody:
        for attempt in (nobody.get("/ai-team/closed"), nobody.list("/ai-team/")):
            with pytest.raises(StoreDeniedError):
                await attempt


async def test_no_log_line_holds_a_secret(start_zookeeper: Start, caplog: pytest.LogCaptureFixture) -> None:
    server = await asyncio.to_thread(start_zookeeper, fsync=False)
    with caplog.at_level(1):
        async with client(server.url_of("writer", SECRET)) as store:
            lease = await store.grant(5)
            await store.put("/ai-team/a", b"confidential", lease=lease.id)
            await asyncio.to_thread(server.restart)
            async with AsyncExitStack() as stack:
                unreached = client(f"zookeeper://writer:{SECRET}@127.0.0.1:{_nobody_listens()}?timeout=1")
                stack.push_async_callback(unreached.close)
                with pytest.raises(StoreUnavailableError) as caught:
                    await unreached.info()
    assert caplog.records
    for text in (caplog.text, str(caught.value), repr(store), store.url):
        assert SECRET not in text
        assert "confidential" not in text


@pytest.mark.parametrize("who", ["writer@", "writer:@", ":secret@", "wri%3Ater:secret@"])
def test_half_a_credential_is_refused(who: str, private_state: Path) -> None:
    if who == "writer:@":
        client(f"zookeeper://{who}h")  # an empty password is one
        return
    with pytest.raises(ConfigError, match="takes a user") as caught:
        client(f"zookeeper://{who}h")
    assert "secret" not in str(caught.value)


# --- TLS


async def test_tls_carries_all_of_it(start_zookeeper: Start, tmp_path: Path) -> None:
    server = await asyncio.to_thread(start_zookeeper, fsync=False, tls=Certificates(tmp_path / "ca"))
    async with client(server.url) as store:
        await store.transact((), [Put(f"/ai-team/{n}", b"%d" % n * 500) for n in range(60)])
        await store.put("/ai-team/large", bytes(MAX_VALUE_BYTES))
        # Many answers in one record of TLS.
        found = await asyncio.gather(*(store.get(f"/ai-team/{n % 60}") for n in range(300)))
        assert all(entry is not None for entry in found)
        assert len((await store.list("/ai-team/")).entries) == 61
        lease = await store.grant(2)
        await store.put("/ai-team/leased", b"", lease=lease.id)
        await lease.keep_alive()
        await lease.revoke()
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        assert await store.get("/ai-team/large") is not None


async def test_faults_of_tls_are_one_clear_line(start_zookeeper: Start, tmp_path: Path) -> None:
    ours, theirs = Certificates(tmp_path / "ours"), Certificates(tmp_path / "theirs")
    server = await asyncio.to_thread(start_zookeeper, fsync=False, tls=ours, client_certificates=True)
    address = server.address
    pair = f"cert={ours.client.cert}&key={ours.client.key}"
    async with client(server.url) as store:
        await store.put("/ai-team/a", b"1")
    for url, said in (
        (f"zookeepers://{address}?timeout=1&ca={theirs.ca}&{pair}", "certificate is not to be trusted"),
        (f"zookeepers://{address}?timeout=1&{pair}", "certificate is not to be trusted"),
        (f"zookeepers://{address}?timeout=1&ca={ours.ca}", "closed the connection|TLS failed|reset"),
        (f"zookeeper://{address}?timeout=1", r"zookeepers://"),
        (
            f"zookeepers://127.0.0.1:{server.ports['client']}?timeout=1&ca={ours.ca}&{pair}",
            "TLS|closed|reset|time",
        ),
    ):
        before = boottime()
        store = client(url)
        with pytest.raises(StoreUnavailableError, match=said) as caught:
            await store.info()
        await store.close()
        assert boottime() - before < 5
        assert "\n" not in str(caught.value)


def test_tls_files_that_are_none_are_refused(tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate")
    with pytest.raises(ConfigError, match="PEM"):
        client(f"zookeepers://h?ca={junk}")


# --- servers out of reach, and hostile ones


def _nobody_listens() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def impostor(
    act: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], timeout: int = 1
) -> AsyncIterator[ZookeeperStore]:
    """A client, with a deadline in seconds, of a server that does what it likes."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            await act(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    store = client(f"zookeeper://127.0.0.1:{port}?timeout={timeout}")
    try:
        yield store
    finally:
        await store.close()
        server.close()
        for writer in writers:
            writer.close()


async def frame(reader: asyncio.StreamReader) -> bytes:
    (length,) = struct.unpack("!i", await reader.readexactly(4))
    return await reader.readexactly(length)


def welcome(timeout: int = 10_000) -> bytes:
    body = struct.pack("!iiq", 0, timeout, 0x1234) + struct.pack("!i", 16) + bytes(16) + b"\0"
    return struct.pack("!i", len(body)) + body


def answer(xid: int, error: int, body: bytes = b"") -> bytes:
    return struct.pack("!iiqi", 16 + len(body), xid, 7, error) + body


async def test_a_silent_server_is_named(tmp_path: Path) -> None:
    async def nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with impostor(nothing) as store:
        before = boottime()
        with pytest.raises(StoreUnavailableError, match=r"not? answer"):
            await store.info()
        assert boottime() - before < 4


async def zookeeper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer as a server does that has but one znode."""
    await frame(reader)
    writer.write(welcome())
    while True:
        xid, kind = struct.unpack_from("!ii", await frame(reader))
        writer.write(answer(xid, 0, {9: b"\0\0\0\1/", 3: struct.pack("!qqqqiiiqiiq", *[1] * 11)}[kind]))


async def test_a_server_that_swallows_a_request_to_connect_is_asked_again_soon() -> None:
    """As a real one does for some milliseconds when it comes up."""
    came = 0

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal came
        came += 1
        await (reader.read() if came == 1 else zookeeper(reader, writer))

    async with impostor(swallow, timeout=30) as store:
        before = boottime()
        await store.info()
        assert boottime() - before < 10  # not a third of the deadline
    assert came == 2


async def test_a_server_that_is_slow_to_connect_is_waited_for_in_the_end() -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(1.5)  # longer than the first try waits
        await zookeeper(reader, writer)

    async with impostor(slow, timeout=30) as store:
        await store.info()


async def test_a_server_that_hangs_up_may_have_its_reasons() -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    # Time for several tries: the deadline may pass in the middle of one, when the last one's reason counts.
    async with impostor(hang_up, timeout=3) as store:
        with pytest.raises(StoreUnavailableError, match="maxClientCnxns"):
            await store.info()


@pytest.mark.parametrize(
    "junk",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        struct.pack("!i", 0x7FFFFFFF),
        struct.pack("!i", -5),
        struct.pack("!i", 4) + b"junk",
        struct.pack("!i", 0),
    ],
    ids=["http", "endless", "negative", "short", "empty"],
)
@pytest.mark.parametrize("greeted", [False, True])
async def test_what_is_no_zookeeper_is_out_of_reach(junk: bytes, greeted: bool) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if greeted:
            await frame(reader)
            writer.write(welcome())
            await frame(reader)
        writer.write(junk)
        await reader.read()

    async with impostor(talk) as store:
        before = boottime()
        with pytest.raises(StoreUnavailableError):
            await store.info()
        assert boottime() - before < 4


@pytest.mark.parametrize("error", [-6, -2, -999], ids=["too old", "inconsistent", "unheard of"])
async def test_errors_that_no_healthy_server_sends_are_told(error: int) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await frame(reader)
        writer.write(welcome())
        while True:
            xid, kind = struct.unpack_from("!ii", await frame(reader))
            known = kind not in (22, 106)
            path = struct.pack("!i", 1) + b"/"
            stat = struct.pack("!qqqqiiiqiiq", *[1] * 11)
            names = struct.pack("!ii", 1, 1) + b"a"
            body = {9: path, 3: stat, 8: names}.get(kind, b"")
            writer.write(answer(xid, 0, body) if known else answer(xid, error))

    async with impostor(refuse) as store:
        said = "older than ZooKeeper 3.6" if error == -6 else "."
        with pytest.raises(StoreError, match=said):
            await store.list("/a")
        with pytest.raises(StoreError, match=said):
            async with store.watch("/a", from_revision=1):
                pass


async def test_no_such_host_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = socket.getaddrinfo

    def nowhere(host: Any, *args: Any, **named: Any) -> Any:
        if host == "zk.example":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve(host, *args, **named)

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    async with AsyncExitStack() as stack:
        store = client("zookeeper://zk.example:2181?timeout=1")
        stack.push_async_callback(store.close)
        with pytest.raises(StoreUnavailableError, match="no such host"):
            await store.info()


async def test_a_look_up_of_a_host_name_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = socket.getaddrinfo
    answered = threading.Event()

    def deaf(host: Any, *args: Any, **named: Any) -> Any:
        if host == "zk.example":
            answered.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return resolve(host, *args, **named)

    monkeypatch.setattr(socket, "getaddrinfo", deaf)
    store = client("zookeeper://zk.example:2181?timeout=1")
    try:
        with pytest.raises(StoreUnavailableError, match="being looked up"):
            await store.info()
        before = boottime()
        await store.close()
        assert boottime() - before < 1.5  # what ends a thread would be waited for longer
        assert threads() == 1
    finally:
        answered.set()
    await until(lambda: threads() == 0)


async def test_the_next_host_is_tried(zookeeper_server: str) -> None:
    good = store_url(zookeeper_server).hosts[0]
    for _ in range(5):  # kazoo tries them in any order
        async with client(f"zookeeper://127.0.0.1:{_nobody_listens()},{good[0]}:{good[1]}") as store:
            await store.info()


async def test_silent_hosts_leave_the_next_one_time(
    zookeeper_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = store_url(zookeeper_server).hosts[0]
    # The answer comes last; kazoo tries them in any order.
    monkeypatch.setattr("kazoo.protocol.connection.random.shuffle", lambda hosts: hosts.sort(key=_is(good)))
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.socket()) for _ in range(3)]
        for each in silent:
            each.bind(("127.0.0.1", 0))
            each.listen(64)  # the system takes connections, and nobody answers
        places = [f"127.0.0.1:{each.getsockname()[1]}" for each in silent]
        async with client(f"zookeeper://{','.join(places)},{good[0]}:{good[1]}?timeout=5") as store:
            await store.info()


def _is(good: tuple[str, int]) -> Callable[[tuple[str, str, int]], bool]:
    return lambda place: (place[0], place[2]) == good


async def test_tries_share_one_deadline() -> None:
    """A connection that is lost under each request, late."""

    async def hang_up_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await frame(reader)
        writer.write(welcome())
        await frame(reader)
        await asyncio.sleep(1.5)
        writer.close()

    async with impostor(hang_up_late, timeout=2) as store:
        before = boottime()
        with pytest.raises(StoreUnavailableError):
            await store.info()
        assert boottime() - before < 3


async def test_the_limit_of_connections_is_named(start_zookeeper: Start) -> None:
    server = await asyncio.to_thread(start_zookeeper, fsync=False, settings={"maxClientCnxns": "2"})
    async with client(server.url + "?timeout=1") as store:
        lease = await store.grant(5)
        with pytest.raises(StoreUnavailableError, match="maxClientCnxns"):
            await store.grant(5)
        await lease.revoke()
        await store.grant(5)


async def test_a_loop_that_is_closed_without_goodbye_leaves_nothing_behind(
    zookeeper_server: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = threads()

    def run() -> None:
        async def main() -> None:
            store = client(zookeeper_server)
            await store.put("/left/a", b"1", lease=(await store.grant(2)).id)
            with pytest.raises(StoreUnavailableError):
                await client(f"zookeeper://127.0.0.1:{_nobody_listens()}?timeout=1").info()

        asyncio.run(main())

    await asyncio.to_thread(run)
    await until(lambda: threads() == before)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
