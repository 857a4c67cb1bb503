"""etcd over TLS, with and without certificates of clients, and what is said when the two sides do not match."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from roster._clock import boottime
from roster.errors import StoreDeniedError, StoreError, StoreUnavailableError
from roster.store import open_store
from servers import Certificates, Etcd

Start = Callable[..., Etcd]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority that nobody here trusts."""
    return Certificates(tmp_path_factory.mktemp("others"))


async def _error(url: str) -> str:
    """Return the one line that says why a store cannot be used."""
    began = boottime()
    async with open_store(url) as store:
        with pytest.raises(StoreUnavailableError) as caught:
            await store.get("/a")
    assert boottime() - began < 6
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 300
    return text


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_server_is_known_by_its_authority(
    start_etcd: Start, certificates: Certificates, host: str
) -> None:
    server = await asyncio.to_thread(start_etcd, fsync=False, tls=certificates)
    async with open_store(server.url.replace("127.0.0.1", host)) as store:
        revision = await store.put("/a", b"1")
        lease = await store.grant(30)
        await lease.keep_alive()
        async with store.watch("/", from_revision=revision) as batches, asyncio.timeout(10):
            assert (await anext(batches)).changes[0].value == b"1"


async def test_dead_members_are_passed_over_with_tls(start_etcd: Start, certificates: Certificates) -> None:
    server = await asyncio.to_thread(start_etcd, fsync=False, tls=certificates)
    url = server.url.replace("etcds://", "etcds://127.0.0.1:1,localhost:1,") + "&timeout=8"
    for _ in range(5):
        async with open_store(url) as store:
            began = boottime()
            await store.put("/a", b"1")
            assert boottime() - began < 4  # half the time-out is what a silent one would take


async def test_a_client_shows_its_certificate(start_etcd: Start, certificates: Certificates) -> None:
    server = await asyncio.to_thread(start_etcd, fsync=False, tls=certificates, client_certificates=True)
    async with open_store(server.url) as store:
        await store.put("/a", b"1")


async def test_what_does_not_match_is_said(
    start_etcd: Start, certificates: Certificates, others: Certificates
) -> None:
    server = await asyncio.to_thread(start_etcd, fsync=False, tls=certificates)
    ca = quote(str(others.ca))
    assert "not one that we trust" in await _error(f"etcds://{server.address}/?ca={ca}")
    assert "not one that we trust" in await _error(f"etcds://{server.address}")
    assert "does it speak TLS" in await _error(f"etcd://{server.address}")


async def test_a_name_that_is_not_in_the_certificate_is_said(
    start_etcd: Start, certificates: Certificates, tmp_path: Path
) -> None:
    elsewhere = Certificates(tmp_path / "elsewhere")
    elsewhere.server = elsewhere.issue("server", names=("etcd.example",))
    server = await asyncio.to_thread(start_etcd, fsync=False, tls=elsewhere)
    assert "made out to another name" in await _error(server.url)


async def test_a_client_without_the_right_certificate_is_told_so(
    start_etcd: Start, certificates: Certificates, others: Certificates
) -> None:
    server = await asyncio.to_thread(start_etcd, fsync=False, tls=certificates, client_certificates=True)
    for url in (
        f"etcds://{server.address}/?ca={quote(str(certificates.ca))}",
        server.url_of(client=others.client),
        server.url_of(client=certificates.issue("old", days=-1)),
    ):
        assert "does not accept our certificate" in await _error(url)


async def test_tls_against_a_plain_server_is_said(start_etcd: Start, certificates: Certificates) -> None:
    server = await asyncio.to_thread(start_etcd, fsync=False)
    assert "does it speak TLS" in await _error(f"etcds://{server.address}/?ca={quote(str(certificates.ca))}")


async def test_files_that_cannot_be_used_are_said(
    certificates: Certificates, others: Certificates, tmp_path: Path
) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    gone = tmp_path / "gone.pem"
    gone.write_text("")
    ca, cert, key = certificates.ca, certificates.client.cert, certificates.client.key
    queries = [
        {"ca": nonsense},
        {"ca": gone},
        {"ca": ca, "cert": nonsense, "key": key},
        {"ca": ca, "cert": cert, "key": nonsense},
        {"ca": ca, "cert": cert, "key": others.client.key},
    ]
    for files in queries:
        query = "&".join(f"{name}={quote(str(path))}" for name, path in files.items())
        store = open_store(f"etcds://127.0.0.1:1/?{query}")
        if gone in files.values():
            gone.unlink()
        with pytest.raises(StoreDeniedError, match=r"the TLS files of etcds:.* cannot be used") as caught:
            await store.get("/a")
        assert all(str(path) in str(caught.value) for path in files.values())
        assert "\n" not in str(caught.value)
        await store.close()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("etcd://127.0.0.1:1", "connection refused"),
        ("etcd://127.0.0.1:1,[::1]:1", "127.0.0.1:1: connection refused"),
        ("etcd://no-such-host.invalid", "host name"),
    ],
)
async def test_a_server_that_is_not_there_is_said(url: str, reason: str) -> None:
    assert reason in await _error(f"{url}/?timeout=2")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\n\r\n", b"", b"\x00" * 64])
async def test_a_server_that_is_not_etcd_is_said(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert "out of reach" in await _error(f"etcd://127.0.0.1:{port}/?timeout=2")


async def test_no_password_is_in_what_is_said() -> None:
    async with open_store("etcd://me:s3cret@127.0.0.1:1/?timeout=1") as store:
        with pytest.raises(StoreError) as caught:
            await store.get("/a")
    chain: BaseException | None = caught.value
    while chain is not None:
        assert "s3cret" not in repr(chain)
        chain = chain.__context__
