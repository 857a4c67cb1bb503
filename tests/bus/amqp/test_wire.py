"""The frames written and read by ourselves, held against the library's."""

from __future__ import annotations

from dataclasses import replace

from aiormq import spec
from hypothesis import given
from hypothesis import strategies as st
from pamqp import frame as library
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from roster.bus.amqp import wire
from roster.bus.amqp.envelope import Properties

NUMBERS = st.integers(1, 2047)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=60)
TAGS = st.integers(0, 2**63 - 1)
PROPERTIES = st.builds(
    Properties,
    content_type=TEXTS,
    headers=st.none()
    | st.dictionaries(st.text("abc", min_size=1, max_size=9), TEXTS | st.integers(-(2**31), 2**31)),
    delivery_mode=st.integers(0, 2),
    priority=st.none() | st.integers(0, 9),
    correlation_id=TEXTS,
    reply_to=TEXTS,
    expiration=TEXTS,
    message_id=TEXTS,
    type=TEXTS,
    app_id=TEXTS,
)


def of_library(properties: Properties) -> spec.Basic.Properties:
    return spec.Basic.Properties(
        content_type=properties.content_type,
        headers=dict(properties.headers) if properties.headers else None,
        delivery_mode=properties.delivery_mode or None,
        priority=properties.priority,
        correlation_id=properties.correlation_id,
        reply_to=properties.reply_to,
        expiration=properties.expiration,
        message_id=properties.message_id,
        message_type=properties.type,
        app_id=properties.app_id,
    )


@given(NUMBERS, TEXTS, PROPERTIES, st.binary(max_size=200), st.booleans(), st.integers(1, 90))
def test_a_message_is_written_as_the_library_writes_it(
    number: int, key: str, properties: Properties, body: bytes, mandatory: bool, room: int
) -> None:
    written = wire.message(number, "mindbus.main", key, properties, body, mandatory=mandatory, room=room)

    expected: list[library.FrameTypes] = [
        spec.Basic.Publish(exchange="mindbus.main", routing_key=key, mandatory=mandatory),
        ContentHeader(body_size=len(body), properties=of_library(properties)),
        *(ContentBody(body[at : at + room]) for at in range(0, len(body), room)),
    ]
    assert written == b"".join(library.marshal(one, number) for one in expected)


@given(NUMBERS, TAGS, st.booleans())
def test_an_acknowledgement_is_written_as_the_library_writes_it(
    number: int, tag: int, multiple: bool
) -> None:
    assert wire.ack(number, tag, multiple) == library.marshal(
        spec.Basic.Ack(delivery_tag=tag, multiple=multiple), number
    )


@given(NUMBERS, TEXTS, TAGS, st.booleans(), TEXTS)
def test_the_beginning_of_a_delivery_is_read_as_the_library_wrote_it(
    number: int, consumer: str, tag: int, redelivered: bool, key: str
) -> None:
    frame = library.marshal(
        spec.Basic.Deliver(
            consumer_tag=consumer,
            delivery_tag=tag,
            redelivered=redelivered,
            exchange="mindbus.main",
            routing_key=key,
        ),
        number,
    )

    assert wire.is_deliver(frame)
    assert wire.read_deliver(frame) == wire.Deliver(consumer, tag, redelivered, key)


@given(PROPERTIES)
def test_properties_are_read_as_the_library_wrote_them(properties: Properties) -> None:
    properties = replace(properties, headers=None)
    frame = library.marshal(ContentHeader(body_size=3, properties=of_library(properties)), 1)
    *_, flags = wire.CONTENT.unpack_from(frame, wire.FRAME.size)

    assert flags & ~wire.PLAIN == 0
    assert wire.read_plain(flags, frame[wire.FRAME.size + wire.CONTENT.size : -1]) == properties
