"""Who is let in: passwords, virtual hosts, certificates, rights; each refusal is one line that shows no secret."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
from tests.bus.helpers import ask, echo, soon, until
from tests.engines import not_here

from roster._clock import boottime
from roster.bus import Delivery, Message
from roster.bus.amqp import AmqpBus
from roster.errors import BusUnavailableError, Code, ConfigError
from servers import Certificates, RabbitMQ, ServerMissingError, User

SECRET = "hunter2-s3cret"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Those of the guarded broker."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def guarded(certificates: Certificates) -> Iterator[RabbitMQ]:
    """A broker with TLS, which asks clients for a certificate, and users with few rights."""
    users = {
        "reader": User(SECRET, configure="^$", write=".*", read=".*"),
        "sender": User(SECRET, configure="^$", write=".*", read="^amq"),
        "mute": User(SECRET, configure="^$", write="^amq.default$", read=".*"),
        "deaf-mute": User(SECRET, configure="^$", write="^$", read="^amq"),
        "nobody": User(SECRET, configure="^$", write="^$", read="^$"),
    }
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="roster-guarded-")))
        try:
            yield stack.enter_context(
                RabbitMQ(directory, users=users, tls=certificates, client_certificates=True)
            )
        except ServerMissingError as error:
            not_here("rabbitmq", str(error))


def plain(broker: RabbitMQ, user: str, secret: str = SECRET, path: str = "") -> str:
    """The URL of the guarded broker's port without TLS."""
    return f"amqp://{user}:{secret}@127.0.0.1:{broker.ports['amqp']}{path}"


async def refusal(url: str) -> BusUnavailableError:
    """Return what is said to whoever is not let in, which is one line without a secret and in time."""
    began = boottime()
    async with AmqpBus(url) as bus:
        with pytest.raises(BusUnavailableError) as caught:
            await soon(bus.send("q", Message.command("work")))
    assert boottime() - began < 7
    text = str(caught.value)
    assert SECRET not in text
    assert "\n" not in text
    assert caught.value.outcome == "not_sent"
    return caught.value


@pytest.mark.parametrize("user", ["owner", "no-such-user"])
async def test_a_wrong_password_is_told_as_such_and_not_tried_on(guarded: RabbitMQ, user: str) -> None:
    error = await refusal(plain(guarded, user))
    assert "the user or the password is wrong" in str(error)
    assert (error.code, error.retryable) == (Code.UNAUTHENTICATED, False)


async def test_a_wrong_virtual_host_is_named(guarded: RabbitMQ) -> None:
    error = await refusal(plain(guarded, "reader", path="/nowhere"))
    assert "nowhere" in str(error)
    assert error.retryable is False


async def test_an_unknown_host_and_a_closed_port_are_told(guarded: RabbitMQ) -> None:
    assert "no-such-host.invalid" in str(await refusal(f"amqp://u:{SECRET}@no-such-host.invalid"))
    assert "127.0.0.1: Connection refused" in str(await refusal(f"amqp://u:{SECRET}@127.0.0.1:1"))


async def test_the_next_host_is_tried_when_one_is_not_there(guarded: RabbitMQ) -> None:
    url = plain(guarded, "reader").replace("@127", "@127.0.0.1:1,127")
    async with AmqpBus(url) as bus:
        with pytest.raises(BusUnavailableError, match="nobody consumes"):
            await soon(bus.send("q", Message.command("work")))


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """A server that answers whatever it hears with the same bytes, and then nothing more."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(answer)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"amqp://u:{SECRET}@127.0.0.1:{server.sockets[0].getsockname()[1]}?timeout=1"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no AMQP broker"),
        (b"AMQP\x00\x01\x00\x00", "another version of AMQP"),
        (b"\x01\x00\x00\xff\xff\xff\xff\x00", "a frame of"),
        (b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x63\xce", "Unknown method"),
        (b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x0a\xce", "no AMQP broker, or a broken one"),
        (b"", "no answer within 1 s"),
    ],
)
async def test_what_is_no_broker_is_told_and_never_waited_for(answer: bytes, told: str) -> None:
    async with answering(answer) as url:
        assert told in str(await refusal(url))


async def test_tls_with_certificates_of_both_sides(guarded: RabbitMQ) -> None:
    async with AmqpBus(guarded.url) as node, AmqpBus(guarded.url) as caller:
        await soon(node.serve("secure", echo))
        assert await ask(caller, "secure", n=1) == {"n": 1}
        assert guarded.url.startswith("amqps://")
        assert node.url == f"amqps://127.0.0.1:{guarded.ports['amqps']}"


async def test_a_broker_that_nobody_we_trust_has_signed_is_not_spoken_to(
    guarded: RabbitMQ, tmp_path: Path
) -> None:
    other = Certificates(tmp_path / "other")
    for ca in (f"?ca={other.ca}", ""):
        url = f"amqps://owner:{SECRET}@127.0.0.1:{guarded.ports['amqps']}/{ca}"
        said = str(await refusal(url))
        assert "its certificate is not to be trusted (" in said
        assert said.endswith("name its authority by ?ca=FILE or ROSTER_TLS_CA")


async def test_a_port_without_tls_is_told(guarded: RabbitMQ, certificates: Certificates) -> None:
    url = f"amqps://owner:{SECRET}@127.0.0.1:{guarded.ports['amqp']}/?ca={certificates.ca}"
    assert str(await refusal(url)).endswith("is TLS served on this port?")


async def test_a_broker_that_asks_for_a_certificate_lets_nobody_in_without(
    guarded: RabbitMQ, certificates: Certificates
) -> None:
    await refusal(f"amqps://owner:{SECRET}@127.0.0.1:{guarded.ports['amqps']}/?ca={certificates.ca}")


def test_tls_files_that_are_none_are_told_before_anything_is_asked(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match="PEM") as caught:
        AmqpBus(f"amqps://u:{SECRET}@mq?ca={tmp_path}/ca.pem")
    assert SECRET not in str(caught.value)


async def test_rights_that_are_missing_are_named(guarded: RabbitMQ) -> None:
    async with AmqpBus(plain(guarded, "nobody")) as bus:
        for wanted, work in (
            ("serve the queue 'q'", bus.serve("q", echo)),
            ("use the exchange 'mindbus.main'", bus.subscribe(["evt.#"], lambda key, message: None)),
        ):
            with pytest.raises(BusUnavailableError, match="the broker forbids it") as caught:
                await soon(work)
            assert wanted in str(caught.value)
            assert (caught.value.code, caught.value.retryable) == (Code.PERMISSION_DENIED, False)


async def test_a_caller_that_may_not_read_a_nodes_queue_can_still_send_to_it(
    guarded: RabbitMQ, caplog: pytest.LogCaptureFixture
) -> None:
    async with AmqpBus(guarded.url) as node, AmqpBus(plain(guarded, "sender")) as caller:
        await soon(node.serve("unread", echo))
        assert await ask(caller, "unread", n=1) == {"n": 1}
    assert "may not read the queue 'unread'" in caplog.text


async def test_a_user_who_may_not_publish_is_told_so_and_keeps_the_calls_that_are_out(
    guarded: RabbitMQ,
) -> None:
    held: list[Delivery] = []
    async with AmqpBus(guarded.url) as node, AmqpBus(plain(guarded, "mute")) as caller:
        await soon(node.serve("mute", held.append, bindings=["cmd.mute"]))
        out = await caller.send("mute", Message.command("work"))
        await until(lambda: len(held) == 1)
        with pytest.raises(BusUnavailableError, match="the broker forbids it") as caught:
            await caller.publish("evt.a.b", Message.event("a.b"))
        assert (caught.value.code, caught.value.retryable) == (Code.PERMISSION_DENIED, False)
        echo(held[0])
        assert (await soon(out.answer)).data["result"] == {}


async def test_a_caller_that_may_not_write_is_told_so_and_has_sent_nothing(guarded: RabbitMQ) -> None:
    async with AmqpBus(guarded.url) as node, AmqpBus(plain(guarded, "deaf-mute")) as caller:
        await soon(node.serve("unwritten", echo))
        exchange = await soon(caller.send("unwritten", Message.command("work")))
        with pytest.raises(BusUnavailableError, match="the broker forbids it") as caught:
            await soon(exchange.answer)
    assert "send to the queue 'unwritten'" in str(caught.value)
    error = caught.value
    assert (error.code, error.retryable, error.outcome) == (Code.PERMISSION_DENIED, False, "not_sent")
