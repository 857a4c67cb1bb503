"""What a broker writes, taken apart: deliveries for us, everything else for the library."""

from __future__ import annotations

import pytest
from aiormq import spec
from pamqp import frame as library
from pamqp.body import ContentBody
from pamqp.common import FieldTable
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from roster.bus.amqp import intake as module
from roster.bus.amqp.envelope import Properties
from roster.bus.amqp.faults import LostError
from roster.bus.amqp.intake import Intake
from roster.bus.amqp.wire import Deliver

Got = list[tuple[int, Deliver, Properties, bytes | None]]

ACK = library.marshal(spec.Basic.Ack(delivery_tag=1), 1)


def delivery(number: int, tag: int, *parts: bytes, headers: FieldTable | None = None) -> list[bytes]:
    """The frames of a delivery, its body in as many as there are parts."""
    properties = spec.Basic.Properties(correlation_id="x1", headers=headers)
    return [
        library.marshal(spec.Basic.Deliver(consumer_tag="c1", delivery_tag=tag, routing_key="q"), number),
        library.marshal(ContentHeader(body_size=sum(map(len, parts)), properties=properties), number),
        *(library.marshal(ContentBody(part), number) for part in parts),
    ]


class Heard:
    """An intake, and what it tells."""

    def __init__(self) -> None:
        self.got: Got = []
        self.faults: list[LostError] = []
        self.intake = Intake(
            lambda *one: self.got.append(one), lambda *_: None, lambda: None, self.faults.append
        )

    async def for_the_library(self) -> bytes:
        """Everything that the library can read by now."""
        self.intake.feed_eof()
        return await self.intake.read()


async def test_a_delivery_is_handed_over_whole_in_whatever_pieces_it_comes() -> None:
    heard = Heard()
    for byte in b"".join([*delivery(1, 7, b"ab", b"cd"), *delivery(1, 8, headers={"a": "b"})]):
        heard.intake.feed_data(bytes([byte]))

    assert heard.got == [
        (1, Deliver("c1", 7, False, "q"), Properties(correlation_id="x1"), b"abcd"),
        (1, Deliver("c1", 8, False, "q"), Properties(correlation_id="x1", headers={"a": "b"}), b""),
    ]
    assert await heard.for_the_library() == b""


async def test_deliveries_on_two_channels_do_not_mix_with_each_other_or_with_what_is_the_librarys() -> None:
    heard = Heard()
    one, two = delivery(1, 7, b"one"), delivery(2, 9, b"two")
    found = [
        library.marshal(spec.Basic.GetOk(delivery_tag=3, routing_key="q", message_count=0), 3),
        *delivery(3, 0, b"got")[1:],
    ]
    for frames in zip(one, two, found, strict=True):
        heard.intake.feed_data(b"".join([*frames, library.marshal(Heartbeat(), 0)]))
    heard.intake.feed_data(ACK)

    assert [(number, deliver.tag, body) for number, deliver, _, body in heard.got] == [
        (1, 7, b"one"),
        (2, 9, b"two"),
    ]
    alive = library.marshal(Heartbeat(), 0)
    assert await heard.for_the_library() == alive.join([*found, ACK])


async def test_the_library_hears_that_a_broker_lives_which_does_nothing_but_deliver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(module, "boottime", lambda: now)
    heard = Heard()
    for tag in range(1, 51):  # five seconds of them
        now += 0.1
        heard.intake.feed_data(b"".join(delivery(1, tag, b"x")))

    said = await heard.for_the_library()
    alive = library.marshal(Heartbeat(), 0)
    assert said == alive * (len(said) // len(alive))
    assert 4 <= len(said) // len(alive) <= 6


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param([*delivery(1, 7, b"ab")[:2], ACK], id="it breaks off"),
        pytest.param(delivery(1, 7, b"ab")[:1] + delivery(1, 8, b"ab")[:1], id="another begins within it"),
        pytest.param([b"\x01\x00\x01\x00\x00\x00\x05\x00\x3c\x00\x3c\xff\xce"], id="it says too little"),
    ],
)
async def test_a_delivery_that_is_none_ends_the_connection(frames: list[bytes]) -> None:
    heard = Heard()
    heard.intake.feed_data(b"".join(frames))

    assert str(heard.faults[0]).startswith("what answers is no AMQP broker, or a broken one")
    assert heard.got == []
