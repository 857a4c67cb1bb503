"""A wire hands out whole frames, however the bytes were cut, and writes what it was given, however slow the reader."""

from __future__ import annotations

import asyncio
import random
import socket

import pytest
from tests.bus.helpers import soon, until

from roster.bus import frames
from roster.bus.wire import Wire, Wires


class Ear:
    """An end that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, int, bytes]] = []
        self.lost: list[str] = []

    def on_frame(self, kind: int, number: int, payload: memoryview) -> None:
        self.heard.append((kind, number, bytes(payload)))

    def on_lost(self, reason: str, fault: bool) -> None:
        self.lost.append(reason)

    def on_room(self) -> None:
        pass


@pytest.mark.parametrize("seed", range(8))
async def test_frames_survive_any_cutting(seed: int) -> None:
    chance = random.Random(seed)
    sent = [
        (
            chance.randrange(256),
            chance.randrange(2**32),
            chance.randbytes(chance.choice([0, 1, 8, 9, 300, 300_000])),
        )
        for _ in range(30)
    ]
    stream = b"".join(frames.frame(*each) for each in sent)
    ours, theirs = socket.socketpair()
    ear = Ear()
    wire = Wire(Wires(asyncio.get_running_loop()), ours, ear, 300_000)
    theirs.setblocking(False)
    position = 0
    while position < len(stream):
        size = chance.choice([1, 5, 9, 10, 1000, 70_000])
        await soon(asyncio.get_running_loop().sock_sendall(theirs, stream[position : position + size]))
        position += size
        await asyncio.sleep(0)
    await until(lambda: len(ear.heard) == len(sent))
    assert ear.heard == sent
    theirs.close()
    await until(lambda: bool(ear.lost))
    assert wire.closed
    assert len(ear.lost) == 1


async def test_what_a_slow_reader_gets_is_whole_and_in_order() -> None:
    ours, theirs = socket.socketpair()
    wires = Wires(asyncio.get_running_loop())
    left, right = Ear(), Ear()
    writer = Wire(wires, ours, left, 2_000_000)
    sent = [(1, n, bytes([n % 251]) * (n * 997 % 400_000)) for n in range(1, 60)]
    for each in sent:
        writer.send(*each)
    assert not writer.flush(), "no socket takes that at once"
    half = writer.drained()
    assert not half.done()
    Wire(wires, theirs, right, 2_000_000)
    await soon(half)
    assert writer.waiting == 0
    await until(lambda: len(right.heard) == len(sent))
    assert right.heard == sent
    writer.close()
    await until(lambda: bool(right.lost))


async def test_those_who_wait_for_a_wire_that_dies_are_let_go() -> None:
    ours, theirs = socket.socketpair()
    ear = Ear()
    wire = Wire(Wires(asyncio.get_running_loop()), ours, ear, 1000)
    wire.send(1, 1, b"x" * 5_000_000)
    assert not wire.flush()
    drained = wire.drained()
    theirs.close()
    await soon(drained)
    await until(lambda: bool(ear.lost))
    wire.send(1, 2, b"to nobody")
    assert wire.flush()
    assert not wire.usable
