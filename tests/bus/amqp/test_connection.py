"""The client's own promises: what strangers send, what comes back, how it all ends, and what is left then."""

from __future__ import annotations

import asyncio
import re
import struct
from dataclasses import replace
from functools import partial

import pytest
from aiormq import spec
from pamqp.body import ContentBody
from pamqp.header import ContentHeader
from servers.ports import LOOPBACK
from tests.bus.amqp.conftest import TIMEOUT, Open
from tests.bus.helpers import soon, until

from roster.bus.amqp import salvage
from roster.bus.amqp.channel import Channel, Delivered, Receipt
from roster.bus.amqp.connecting import connect
from roster.bus.amqp.envelope import Properties
from roster.bus.amqp.faults import NOT_FOUND, LostError, RefusedError
from roster.bus.amqp.intake import MAX_BODY
from roster.bus.amqp.settings import Settings, settings_of
from roster.bus.url import parse_url
from servers import RabbitMQ


def settings(where: str) -> Settings:
    return settings_of(parse_url(where))


class Raw(spec.Basic.Properties):
    """An envelope of other bytes than a library would write."""

    def __init__(self, raw: bytes) -> None:
        super().__init__()
        self.raw = raw

    def marshal(self) -> bytes:
        return self.raw


def publish_raw(channel: Channel, queue: str, properties: bytes, body: bytes) -> None:
    channel.connection.write(
        channel._inner.number,
        spec.Basic.Publish(routing_key=queue),
        ContentHeader(body_size=len(body), properties=Raw(properties)),
        ContentBody(body),
    )


def table(inner: bytes) -> bytes:
    return struct.pack(">I", len(inner)) + inner


def nested(depth: int) -> bytes:
    inner = b""
    for _ in range(depth):
        inner = b"\x01a" + b"F" + table(inner)
    return table(inner)


async def consuming(channel: Channel) -> tuple[str, list[Delivered]]:
    """Begin to consume a queue of one's own."""
    got: list[Delivered] = []
    queue, *_ = await channel.declare_queue("", TIMEOUT, exclusive=True)
    await channel.consume(queue, got.append, TIMEOUT, no_ack=True)
    return queue, got


# --- what strangers send ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "properties",
    [
        pytest.param(struct.pack(">H", 0x0200) + b"\x03a\xff\xfe", id="a name that is no text"),
        pytest.param(struct.pack(">H", 0x0040) + b"\x7f" * 8, id="a time that no calendar has"),
        pytest.param(struct.pack(">H", 0x2000) + nested(5000), id="tables in tables"),
        pytest.param(
            struct.pack(">H", 0x2000) + table(b"\x01\xffS" + table(b"x")), id="a header without a name"
        ),
    ],
)
async def test_an_envelope_that_cannot_be_read_ends_nothing(foreign: Open, properties: bytes) -> None:
    channel, other = await foreign(), await foreign()
    queue, got = await consuming(channel)
    publish_raw(await other.connection.channel(TIMEOUT), queue, properties, b"first")
    await until(lambda: len(got) == 1)
    other.publish("", queue, Properties(reply_to="имя"), b"second")
    await until(lambda: len(got) == 2)
    assert [each.body for each in got] == [b"first", b"second"]
    assert (got[0].properties, got[1].properties.reply_to) == (Properties(), "имя")
    assert channel.connection.fault is None


def text(word: bytes) -> bytes:
    return bytes([len(word)]) + word


@pytest.mark.parametrize(
    ("flags", "properties", "kept"),
    [
        (0x0740, [text(b"c"), text(b"r"), text(b"900"), b"\x7f" * 8], ("c", "r", "900", None)),
        (0x2700, [nested(5000), text(b"c"), text(b"r"), text(b"900")], ("c", "r", "900", None)),
        (
            0x2740,
            [table(b"\x01aS" + table(b"b")), text(b"c"), text(b"r"), text(b"900"), b"\x7f" * 8],
            ("c", "r", "900", {"a": "b"}),
        ),
        (0x0700, [text(b"\xff\xfe"), text(b"r"), text(b"900")], ("", "r", "900", None)),
    ],
    ids=["a time", "headers", "a time beside headers", "no text"],
)
async def test_what_can_be_read_of_an_envelope_is_kept(
    foreign: Open, flags: int, properties: list[bytes], kept: tuple[str, str, str, object]
) -> None:
    channel, other = await foreign(), await foreign()
    queue, got = await consuming(channel)
    raw = struct.pack(">H", flags) + b"".join(properties)
    publish_raw(await other.connection.channel(TIMEOUT), queue, raw, b"body")
    await until(lambda: len(got) == 1)
    about = got[0].properties
    assert (about.correlation_id, about.reply_to, about.expiration, about.headers) == kept
    assert got[0].body == b"body"


@pytest.mark.parametrize("properties", [b"", b"\x09900", text(b"c") + text(b"r") + b"\x09900"])
def test_nothing_is_kept_of_an_envelope_that_is_shorter_than_it_says(properties: bytes) -> None:
    assert salvage.kept(0x0700, properties, lambda flags, raw: True) == (0, b"")


async def test_a_body_that_is_too_large_is_not_kept(foreign: Open) -> None:
    channel, other = await foreign(), await foreign()
    queue, got = await consuming(channel)
    other.publish("", queue, Properties(reply_to="r"), bytes(MAX_BODY + 1))
    other.publish("", queue, Properties(reply_to="r"), bytes(MAX_BODY))
    other.publish("", queue, Properties(), b"")
    await until(lambda: len(got) == 3, 30)
    assert [None if each.body is None else len(each.body) for each in got] == [None, MAX_BODY, 0]
    assert got[0].properties.reply_to == "r", "its sender can be told"
    await consuming(channel)  # nothing of it is taken for the answer to something else


async def test_two_channels_get_their_own_large_bodies(foreign: Open) -> None:
    one = await foreign()
    two = await one.connection.channel(TIMEOUT)
    queues = [await consuming(one), await consuming(two)]
    other = await foreign()
    for _ in range(3):
        for queue, _ in queues:
            other.publish("", queue, Properties(), bytes(MAX_BODY + 1))
            other.publish("", queue, Properties(), queue.encode())
    await until(lambda: all(len(got) == 6 for _, got in queues), 30)
    for queue, got in queues:
        assert [each.body for each in got] == [None, queue.encode()] * 3


async def test_a_message_that_its_consumer_fails_on_ends_nothing_but_itself(
    foreign: Open, caplog: pytest.LogCaptureFixture
) -> None:
    channel = await foreign()
    queue, *_ = await channel.declare_queue("", TIMEOUT, exclusive=True)
    got: list[bytes | None] = []

    def take(delivered: Delivered) -> None:
        got.append(delivered.body)
        if delivered.body == b"bad":
            raise RuntimeError("it cannot be taken")

    await channel.consume(queue, take, TIMEOUT, no_ack=True)
    for body in (b"bad", b"good"):
        channel.publish("", queue, Properties(), body)
    await until(lambda: got == [b"bad", b"good"])
    await channel.declare_queue(queue, TIMEOUT, passive=True)  # it is as well as before
    assert "it cannot be taken" in caplog.text


# --- what comes back ----------------------------------------------------------------------------------------------


async def test_each_message_that_reaches_nobody_is_returned_also_of_one_id(foreign: Open) -> None:
    channel = await foreign()
    queue, _ = await consuming(channel)
    receipts: dict[int, Receipt] = {}

    def note(number: int, receipt: Receipt) -> None:
        assert number not in receipts
        receipts[number] = receipt

    for number, key in enumerate(["nowhere", "nowhere", queue, "nowhere", queue]):
        channel.publish(
            "",
            key,
            Properties(message_id="same"),
            b"",
            mandatory=True,
            receipt=partial(note, number),
        )
    await until(lambda: len(receipts) == 5)
    assert receipts == {0: "returned", 1: "returned", 2: "taken", 3: "returned", 4: "taken"}


async def test_a_receipt_is_of_its_own_message_whatever_went_without_one(foreign: Open) -> None:
    channel = await foreign()
    for _ in range(3):
        channel.publish("", "nowhere", Properties(), b"")
    full, *_ = await channel.declare_queue(
        "", TIMEOUT, exclusive=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
    )
    receipts: list[Receipt] = []
    for _ in range(3):
        channel.publish("", "nowhere", Properties(), b"")
        channel.publish("", full, Properties(), b"", receipt=receipts.append)
    await until(lambda: len(receipts) == 3)
    assert receipts == ["taken", "full", "full"]


async def test_receipts_of_many_come_each_once(foreign: Open) -> None:
    channel = await foreign()
    queue, got = await consuming(channel)
    receipts: list[Receipt] = []
    for number in range(2000):
        channel.publish("", queue, Properties(message_id=str(number)), b"", receipt=receipts.append)
    await until(lambda: len(receipts) == len(got) == 2000)
    assert set(receipts) == {"taken"}
    assert [each.properties.message_id for each in got] == [str(number) for number in range(2000)]


async def test_the_first_message_of_a_turn_goes_at_once_and_the_others_together(
    foreign: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = await foreign()
    queue, got = await consuming(channel)
    await asyncio.sleep(0)  # what was said until now is written
    connection = channel.connection
    assert connection._writer is not None
    written: list[bytes] = []
    transport = connection._writer.transport

    def write(data: bytes) -> None:
        written.append(data)
        transport.write(data)

    monkeypatch.setattr(connection._writer, "write", write)
    for number in range(3):
        channel.publish("", queue, Properties(), b"%d" % number)
        connection.flush_first()
        assert len(written) == 1
    await asyncio.sleep(0)
    assert len(written) == 2
    channel.publish("", queue, Properties(), b"3")
    connection.flush_first()
    assert len(written) == 3, "another turn has begun"
    await until(lambda: [each.body for each in got] == [b"0", b"1", b"2", b"3"])


# --- channels -----------------------------------------------------------------------------------------------------


async def test_a_refusal_ends_its_channel_alone_and_says_the_code(foreign: Open) -> None:
    channel = await foreign()
    scratch = await channel.connection.channel(TIMEOUT)
    ends: list[LostError] = []
    scratch.on_end = ends.append
    with pytest.raises(RefusedError) as caught:
        await scratch.declare_queue("not there", TIMEOUT, passive=True)
    assert caught.value.code == NOT_FOUND
    assert "not there" in str(caught.value)
    assert ends == [scratch.fault]
    with pytest.raises(RefusedError):
        await scratch.declare_queue("q", TIMEOUT)
    await consuming(channel)


async def test_channels_that_come_and_go_never_run_out_of_numbers(foreign: Open) -> None:
    connection = (await foreign()).connection
    connection._client.connection_tune.channel_max = 5
    held = await connection.channel(TIMEOUT)
    for _ in range(20):
        again = await connection.channel(TIMEOUT)
        await held.close(TIMEOUT)
        held = again
        with pytest.raises(RefusedError):
            await (await connection.channel(TIMEOUT)).declare_queue("not there", TIMEOUT, passive=True)
    assert max(connection._client.channels) <= 5
    for _ in range(3):
        await connection.channel(TIMEOUT)
    with pytest.raises(LostError, match="all 5 channels"):
        await connection.channel(TIMEOUT)


async def test_whoever_waits_for_an_answer_may_be_cancelled_without_harm(foreign: Open) -> None:
    channel = await foreign()
    for _ in range(20):
        question = asyncio.create_task(channel.declare_queue("", TIMEOUT, exclusive=True))
        await asyncio.sleep(0)
        question.cancel()
        opening = asyncio.create_task(channel.connection.channel(TIMEOUT))
        await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([question, opening])
    await consuming(channel)
    await until(lambda: len(channel.connection._client.channels) == 1)
    assert (channel.fault, channel.connection.fault) == (None, None)


async def test_a_consumer_that_the_broker_ends_is_told(foreign: Open) -> None:
    channel, other = await foreign(), await foreign()
    queue, *_ = await channel.declare_queue("to be deleted", TIMEOUT, durable=True)
    gone = asyncio.Event()
    await channel.consume(queue, lambda _: None, TIMEOUT, on_cancel=gone.set)
    await other.delete_queue(queue, TIMEOUT)
    await soon(gone.wait())
    assert channel.fault is None


async def test_a_silent_broker_ends_the_question_and_the_channel(victim: RabbitMQ) -> None:
    connection = await connect(settings(victim.url), "test", TIMEOUT)
    channel = await connection.channel(TIMEOUT, confirms=True)
    receipts: list[Receipt] = []
    victim.freeze()
    try:
        channel.publish("", "q", Properties(), b"", receipt=receipts.append)
        with pytest.raises(LostError, match=r"did not answer within 0\.2 s"):
            await channel.declare_queue("q", 0.2)
        assert receipts == ["lost"]
        channel.publish("", "q", Properties(), b"", receipt=receipts.append)
        assert receipts == ["lost", "lost"], "nothing is sent on it any more"
        with pytest.raises(LostError, match=r"did not answer within 0\.2 s"):
            await connection.channel(0.2)
        async with asyncio.timeout(3):
            await connection.close(0.2)
    finally:
        victim.thaw()


# --- connections --------------------------------------------------------------------------------------------------


async def test_nothing_is_left_of_a_connection_that_was_closed(url: str) -> None:
    before = asyncio.all_tasks()
    connection = await connect(settings(url), "test", TIMEOUT)
    channel = await connection.channel(TIMEOUT, confirms=True)
    await consuming(channel)
    (await connection.channel(TIMEOUT)).give_up(LostError("not wanted any more"))
    await connection.close(TIMEOUT)
    assert channel.fault is not None
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("how", ["abort", "kill"])
async def test_nothing_is_left_of_a_connection_that_was_lost(victim: RabbitMQ, how: str) -> None:
    before = asyncio.all_tasks()
    connection = await connect(settings(victim.url), "test", TIMEOUT)
    channel = await connection.channel(TIMEOUT, confirms=True)
    queue, _ = await consuming(channel)
    ends: list[LostError] = []
    receipts: list[Receipt] = []
    connection.on_lost = ends.append
    question = asyncio.create_task(channel.declare_queue("q", TIMEOUT))
    await asyncio.sleep(0)
    channel.publish("", queue, Properties(), b"", receipt=receipts.append)
    if how == "abort":
        connection.abort("it is not wanted")
    else:
        await asyncio.to_thread(victim.kill)
    try:
        await until(lambda: bool(ends))
        assert channel.fault is ends[0]
        assert receipts in (["lost"], ["taken"])
        await asyncio.wait([question])
        assert question.exception() is None or isinstance(question.exception(), LostError)
        await until(lambda: asyncio.all_tasks() == before)
    finally:
        if how == "kill":
            await asyncio.to_thread(victim.restart)


async def test_a_connection_that_was_cancelled_leaves_nothing(victim: RabbitMQ) -> None:
    before = asyncio.all_tasks()
    victim.freeze()
    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await connect(settings(victim.url), "test", 30)
        with pytest.raises(LostError, match=r"no answer within 0\.2 s"):
            await connect(settings(victim.url), "test", 0.2)
        await until(lambda: asyncio.all_tasks() == before)
    finally:
        victim.thaw()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"password": "not this"}, "[Ll]ogin was refused"),
        ({"password": ""}, "[Ll]ogin was refused"),
        ({"username": "nobody"}, "[Ll]ogin was refused"),
        ({"vhost": "not there"}, "vhost not there not found"),
    ],
)
async def test_who_is_not_let_in_is_told_why_in_one_line(url: str, change: dict[str, str], says: str) -> None:
    with pytest.raises(RefusedError, match=says) as caught:
        await connect(replace(settings(url), **change), "test", TIMEOUT)  # type: ignore[arg-type] # texts alone
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_the_log_of_the_library_holds_neither_user_nor_password(
    victim: RabbitMQ, caplog: pytest.LogCaptureFixture
) -> None:
    connection = await connect(settings(victim.url), "test", TIMEOUT)
    ends: list[LostError] = []
    connection.on_lost = ends.append
    await asyncio.to_thread(victim.ctl, "close_all_connections", "by hand")
    await until(lambda: bool(ends))
    assert isinstance(ends[0], RefusedError)
    await until(lambda: "by hand" in caplog.text)
    assert not re.search("owner|secret", caplog.text)


async def test_another_host_is_taken_when_one_does_not_answer(url: str) -> None:
    good = settings(url)

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(listen, LOOPBACK, 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        hosts = ((LOOPBACK, 1), (LOOPBACK, port), *good.hosts)
        connection = await connect(replace(good, hosts=hosts), "test", 3.0)
        await connection.close(TIMEOUT)


async def test_a_blocked_connection_says_so_and_is_released(victim: RabbitMQ) -> None:
    connection = await connect(settings(victim.url), "test", TIMEOUT)
    channel = await connection.channel(TIMEOUT, confirms=True)
    await asyncio.to_thread(victim.alarm, on=True)
    try:
        channel.publish("", "q", Properties(), b"")
        await until(lambda: connection.full)
        assert connection.blocked
        room = asyncio.create_task(connection.room())
    finally:
        await asyncio.to_thread(victim.alarm, on=False)
    await soon(room)
    assert not connection.full
    await connection.close(TIMEOUT)


async def test_what_the_kernel_does_not_take_counts_until_it_does(victim: RabbitMQ) -> None:
    connection = await connect(settings(victim.url), "test", TIMEOUT)
    channel = await connection.channel(TIMEOUT)
    victim.freeze()
    try:
        for _ in range(30):
            channel.publish("", "nowhere", Properties(), bytes(1024 * 1024))
        channel.flush()
        assert connection.full
        assert connection.unsent > 10 * 1024 * 1024
    finally:
        victim.thaw()
    await soon(connection.room())
    await soon(connection.sent())
    assert connection.unsent == 0
    await connection.close(TIMEOUT)
