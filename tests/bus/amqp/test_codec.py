"""AMQP on the wire: what we write we read, and what is cut or garbled raises one error and no other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roster.bus.amqp import codec
from roster.bus.amqp.codec import CodecError, Properties, Reader, read_header, read_method

TEXT = st.text(max_size=40)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
NAMES = st.text(max_size=20)
TABLES = st.recursive(
    st.dictionaries(NAMES, TEXT | INTEGERS | st.booleans(), max_size=4),
    lambda inner: st.dictionaries(NAMES, inner | TEXT, max_size=3),
    max_leaves=10,
)
SHORTS = st.text(max_size=50)


@given(TABLES)
def test_tables_are_read_as_they_were_written(table: dict[str, Any]) -> None:
    assert Reader(codec.table(table)).table() == table


@given(
    st.builds(
        Properties,
        content_type=SHORTS,
        headers=st.none() | TABLES.filter(bool),
        delivery_mode=st.integers(0, 2),
        priority=st.none() | st.integers(0, 255),
        correlation_id=SHORTS,
        reply_to=SHORTS,
        expiration=SHORTS,
        message_id=SHORTS,
        type=SHORTS,
        app_id=SHORTS,
    ),
    st.binary(max_size=300),
    st.integers(20, 60),
)
def test_a_message_is_read_as_it_was_written(properties: Properties, body: bytes, frame_max: int) -> None:
    raw = codec.publish(1, "", "q", properties, body, mandatory=True, frame_max=frame_max)
    frames = list(_frames(raw))
    assert [kind for kind, _ in frames[:2]] == [codec.METHOD, codec.HEADER]
    assert read_header(frames[1][1]) == (len(body), properties)
    assert b"".join(payload for _, payload in frames[2:]) == body
    assert all(len(payload) + codec.FRAME_OVERHEAD <= frame_max for _, payload in frames[2:])


def _frames(raw: bytes) -> Any:
    while raw:
        size = int.from_bytes(raw[3:7], "big")
        assert raw[7 + size] == codec.FRAME_END
        yield raw[0], raw[7 : 7 + size]
        raw = raw[8 + size :]


@given(st.binary(max_size=200))
def test_garbage_raises_one_error_and_no_other(raw: bytes) -> None:
    for read in (read_method, read_header, lambda raw: Reader(raw).table()):
        try:
            read(raw)
        except CodecError:
            pass


@given(TABLES.filter(bool), st.data())
def test_what_is_cut_is_noticed(table: dict[str, Any], data: st.DataObject) -> None:
    raw = codec.table(table)
    cut = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(CodecError):
        Reader(raw[:cut]).table()


def test_tables_nested_without_end_are_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(codec.MAX_DEPTH + 5):
        deep = {"a": deep}
    with pytest.raises(CodecError, match="nested"):
        Reader(codec.table(deep)).table()


def test_names_that_are_no_utf_8_come_back_as_they_were() -> None:
    raw = bytes((3, 0xFF, 0x00, 0x80))
    assert codec.short(Reader(raw).short()) == raw


def test_a_name_is_at_most_255_bytes() -> None:
    with pytest.raises(CodecError, match="255"):
        codec.short("я" * 128)
