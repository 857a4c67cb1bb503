"""`register --check`: a program that knows nothing of Roster takes work only while it is well."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from servers.certificates import Certificates
from tests.cli.conftest import ended, roster
from tests.cli.test_register import _end, _start
from tests.conftest import eventually, passport

from roster import Registry
from roster.cli.probes import Probe
from roster.errors import ConfigError

Urls = tuple[str, str]
Answer = Callable[[], bytes | None]


@asynccontextmanager
async def serving(answer: Answer, **options: object) -> AsyncIterator[int]:
    """Serve whatever `answer` returns to each request; None says nothing at all."""
    held: list[asyncio.StreamWriter] = []

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        try:
            await reader.readuntil(b"\r\n\r\n")
            said = answer()
            if said is not None:
                writer.write(said)
                await writer.drain()
                writer.close()
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    server = await asyncio.start_server(client, "127.0.0.1", 0, **options)  # type: ignore[arg-type]  # ssl alone
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        for writer in held:
            writer.transport.abort()
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0)  # what was aborted is closed in the loop's next round


@pytest.mark.parametrize(
    ("text", "probe"),
    [
        ("tcp://127.0.0.1:80", Probe("tcp", "127.0.0.1", 80)),
        ("tcp://[::1]:9000", Probe("tcp", "::1", 9000)),
        ("http://localhost", Probe("http", "localhost", 80, "/")),
        ("https://h:8443/a/b?c=d", Probe("https", "h", 8443, "/a/b?c=d")),
        ("file:///run/my%20app/ready", Probe("file", path="/run/my app/ready")),
    ],
)
def test_a_check_is_a_url(text: str, probe: Probe) -> None:
    assert Probe.parse(text) == probe


@pytest.mark.parametrize(
    "text",
    [
        *("", "8080", "localhost:8080", "tcp://", "tcp://host", "tcp://host:0", "tcp://host:99999", "tcp://h:1/path"),
        *("ftp://host:21", "http://", "http://user:s3cret@host/", "http://host/#x", "http://host/a b", "http://h/\r\nX: y"),
        *("file://host/path", "file:///", "file:relative", "http://[::1/", "http://h/" + "x" * 3000, "http://хост/"),
    ],
)  # fmt: skip
def test_what_is_no_check_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError, match="a check is tcp://HOST:PORT, http://") as caught:
        Probe.parse(text)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", None),
        (b"HTTP/1.0 204\r\n\r\n", None),
        (b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\n\r\n", None),
        (b"HTTP/1.1 200 " + b"x" * 4000 + b"\r\n\r\n", None),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "answered 404"),
        (b"HTTP/1.1 503 Unavailable\r\n\r\n", "answered 503"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "answered 100"),
        (b"HTTP/2 200\r\n\r\n", "does not speak HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
        (b"", "does not speak HTTP"),
        (b"x" * 100_000, "does not speak HTTP"),
        (None, "did not answer within 0.2 s"),
    ],
)
async def test_what_http_answers_is_judged_as_a_kubelet_does(said: bytes | None, found: str | None) -> None:
    async with serving(lambda: said) as port:
        probe = Probe.parse(f"http://127.0.0.1:{port}/healthz?deep=1")
        why = await probe.look(5 if said is not None else 0.2)
    assert why == (None if found is None else f"http://127.0.0.1:{port}/healthz?deep=1 {found}")


async def test_a_deadline_holds_however_slowly_a_line_comes() -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(b"H")
                await writer.drain()
                await asyncio.sleep(0.02)
        except OSError:
            writer.close()
            over.set()

    over = asyncio.Event()
    async with await asyncio.start_server(client, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        said = await asyncio.wait_for(Probe.parse(f"http://127.0.0.1:{port}").look(0.3), 20)
        await asyncio.wait_for(over.wait(), 20)
        assert said == f"http://127.0.0.1:{port}/ did not answer within 0.3 s"


async def test_tls_is_asked_whether_it_answers_not_who_it_is(tmp_path: Path) -> None:
    import ssl

    made = Certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.server.cert, made.server.key)
    async with serving(lambda: b"HTTP/1.1 200 OK\r\n\r\n", ssl=context) as port:
        assert await Probe.parse(f"https://127.0.0.1:{port}/").look(5) is None


async def test_tcp_and_files_are_looked_at(tmp_path: Path) -> None:
    async with serving(lambda: None) as port:
        assert await Probe.parse(f"tcp://127.0.0.1:{port}").look(5) is None
    said = await Probe.parse(f"tcp://127.0.0.1:{port}").look(5)
    assert said is not None
    assert said.startswith(f"tcp://127.0.0.1:{port}: ")
    file = tmp_path / "ready"
    assert await Probe.parse(f"file://{file}").look(5) == f"file://{file} is not there"
    file.touch()
    assert await Probe.parse(f"file://{file}").look(5) is None


# -- register ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "passport.json"
    path.write_text(json.dumps(passport("worker", "work", namespace="team")))
    return str(path)


async def test_the_node_takes_work_only_while_its_checks_are_good(file_urls: Urls, file: str) -> None:
    well = False

    def answer() -> bytes:
        return b"HTTP/1.1 200 OK\r\n\r\n" if well else b"HTTP/1.1 503 Not yet\r\n\r\n"

    async with Registry.connect(file_urls[0]) as registry, serving(answer) as port:
        await registry.synced()

        def state() -> str | None:
            record = registry.informer.get("team/worker")
            return record.state if record is not None else None

        def said() -> list[tuple[str, str, str]]:
            record = registry.informer.get("team/worker")
            assert record is not None
            assert record.status is not None
            return [(one.type, one.status, one.message) for one in record.status.conditions]

        url = f"http://127.0.0.1:{port}/healthz"
        options = ("--check", url, "--check-every", "50ms", "--check-timeout", "5s", "--check-failures", "2")
        async with ended(await _start(file_urls, "-f", file, *options)) as process:
            await eventually(lambda: state() == "starting", 30)
            await eventually(lambda: said() == [("Healthy", "False", f"{url} answered 503")])
            well = True
            await eventually(lambda: state() == "ready" and not said())
            well = False
            await eventually(lambda: state() == "starting" and said())
            well = True
            await eventually(lambda: state() == "ready")
            process.send_signal(signal.SIGTERM)
            status, error = await _end(process)
            assert status == 0
            assert "team/worker takes no work: " + url + " answered 503" in error
            await eventually(lambda: state() is None)


async def test_one_bad_look_is_not_enough(file_urls: Urls, file: str) -> None:
    asked = 0

    def answer() -> bytes:
        nonlocal asked
        asked += 1
        return b"HTTP/1.1 500 Oops\r\n\r\n" if asked % 3 else b"HTTP/1.1 200 OK\r\n\r\n"

    async with Registry.connect(file_urls[0]) as registry, serving(answer) as port:
        states: list[str] = []
        options = ("--check", f"http://127.0.0.1:{port}", "--check-every", "50ms", "--check-timeout", "5s")
        async with ended(await _start(file_urls, "-f", file, *options)) as process:
            async with asyncio.timeout(30):
                async for event in registry.watch():
                    states.append(event.record.state)
                    if event.record.state == "ready":
                        break
            seen = asked
            await eventually(lambda: asked > seen + 9, 30)
            assert (await registry.get("worker", "team")).state == "ready"
            process.send_signal(signal.SIGTERM)
            assert (await _end(process))[0] == 0


async def test_a_node_that_leaves_is_not_brought_back_by_its_check(file_urls: Urls, file: str) -> None:
    script = "trap 'read x; exit 0' TERM; echo up; while :; do sleep 0.02; done"
    async with (
        Registry.connect(file_urls[0]) as registry,
        serving(lambda: b"HTTP/1.1 200 OK\r\n\r\n") as port,
    ):
        await registry.synced()
        options = ("--check", f"http://127.0.0.1:{port}", "--check-every", "50ms", "--check-timeout", "5s")
        async with ended(await _start(file_urls, "-f", file, *options, "--", "sh", "-c", script)) as process:

            def state() -> str | None:
                record = registry.informer.get("team/worker")
                return record.state if record is not None else None

            await eventually(lambda: state() == "ready", 30)
            process.send_signal(signal.SIGTERM)
            await eventually(lambda: state() == "draining", 30)
            await asyncio.sleep(0.3)  # six looks, were there any
            assert state() == "draining"
            assert process.stdin is not None
            process.stdin.write(b"\n")
            assert (await _end(process))[0] == 0


async def test_replicas_of_one_passport_have_names_of_their_own(file_urls: Urls, file: str) -> None:
    echo = ("--", "sh", "-c", "echo $ROSTER_NODE_NAME $ROSTER_NODE_QUEUE")
    async with ended(await _start(file_urls, "-f", file, "--name", "worker-7f9c", *echo)) as process:
        assert process.stdout is not None
        assert await process.stdout.read() == b"worker-7f9c agent.team.worker-7f9c\n"
        assert (await _end(process))[0] == 0


def test_replicas_must_not_share_a_queue(tmp_path: Path) -> None:
    document = passport("worker", "work")
    document["spec"]["communication"] = {"mindbus_queue": "agent.worker"}
    (tmp_path / "passport.json").write_text(json.dumps(document))
    found = roster("register", "-f", str(tmp_path / "passport.json"), "--name", "other", "true")
    assert found.status == 2
    assert "the passport names its queue (agent.worker), and two nodes must not share one" in found.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--check", "nonsense"), "a check is tcp://HOST:PORT"),
        (("--check", "tcp://h:1", "--check-every", "0"), "--check-every is 50ms to 1h"),
        (("--check", "tcp://h:1", "--check-timeout", "2h"), "--check-timeout is 50ms to 1h"),
        (("--check", "tcp://h:1", "--check-failures", "0"), "--check-failures"),
        (("--name", "Not_A_Label"), "metadata.name"),
    ],
)
def test_wrong_options_start_nothing(options: tuple[str, ...], said: str, file: str, tmp_path: Path) -> None:
    found = roster("register", "-f", file, *options, "touch", str(tmp_path / "ran"))
    assert found.status in (1, 2)
    assert said in found.err
    assert not (tmp_path / "ran").exists()
