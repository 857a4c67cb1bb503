"""The local bus between real processes: death, standstill, garbage, forks, and files that vanish."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import shutil
import signal
import socket
import stat
import struct
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.bus.helpers import Child, ask, echo, soon, until

from roster.bus import Bus, Delivery, Message, frames, local_guest, open_bus, sockets
from roster.bus.local import LocalBus
from roster.bus.sockets import queue_stem
from roster.errors import BusUnavailableError, Code, ConfigError, DeliveryError

# A consumer in a process of its own. It notes the id of each command in a ledger once its start is announced: that is
# the work. What a command's `do` says decides what comes of it.
CONSUMER = """
import asyncio, os, sys, signal
from roster.bus import Message, open_bus, sockets
url, queue, ledger_path = sys.argv[1:4]
sockets.BACKLOG = int(sys.argv[4]) if len(sys.argv) > 4 else sockets.BACKLOG
ledger = os.open(ledger_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

async def main():
    async with open_bus(url) as bus:
        def on_delivery(delivery):
            do = delivery.message.params.get("do")
            if do == "hold":
                return
            if do == "fork":
                ready, say = os.pipe()
                child = os.fork()
                if child == 0:
                    os.write(say, b"!")
                    signal.pause()
                os.read(ready, 1)
                delivery.reply(Message.result_for(delivery.message, child))
                return
            delivery.start()
            waiting = consumer.flush()
            def work(_=None):
                os.write(ledger, (delivery.message.id + "\\n").encode())
                if do != "start":
                    delivery.reply(Message.result_for(delivery.message, delivery.message.params))
            if waiting is None:
                work()
            else:
                waiting.add_done_callback(work)
        consumer = await bus.serve(queue, on_delivery)
        print("serving", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        await consumer.close()

try:
    asyncio.run(main())
except Exception as error:
    print(type(error).__name__, flush=True)
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """A bus directory with a short path."""
    with tempfile.TemporaryDirectory(prefix="rb-") as made:
        yield Path(made) / "bus"


@pytest.fixture
def start(directory: Path, tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """A function that starts consumers in processes of their own."""
    children: list[Child] = []

    def make(queue: str = "q", *more: str) -> Child:
        child = Child(CONSUMER, f"local://{directory}", queue, str(tmp_path / "ledger"), *more)
        children.append(child)
        return child

    yield make
    for child in children:
        child.end()


@pytest.fixture
async def connect(directory: Path) -> AsyncIterator[Callable[[], Bus]]:
    """A function that opens clients of the bus."""
    async with AsyncExitStack() as stack:

        def make() -> Bus:
            bus = open_bus(f"local://{directory}")
            stack.push_async_callback(bus.close)
            return bus

        yield make


@pytest.fixture
def caller(connect: Callable[[], Bus]) -> Bus:
    """A client."""
    return connect()


def ledger(tmp_path: Path) -> list[str]:
    """The ids of the commands that were worked on."""
    return (tmp_path / "ledger").read_text().split()


# --- death ------------------------------------------------------------------------------------------------------


async def test_kill_9_tells_at_once_what_had_begun_and_what_had_not(
    start: Callable[..., Child], caller: Bus, tmp_path: Path
) -> None:
    child = start()
    await child.line()
    held = await caller.send("q", Message.command("a", {"do": "hold"}))
    begun_command = Message.command("a", {"do": "start"})
    begun = await caller.send("q", begun_command)
    await until(lambda: begun.started is True and ledger(tmp_path) == [begun_command.id])
    assert held.started is False
    killed = time.monotonic()
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(DeliveryError, match="had not begun") as caught:
        await soon(held.answer)
    assert caught.value.outcome == "refused"
    with pytest.raises(DeliveryError, match="had begun") as caught:
        await soon(begun.answer)
    assert caught.value.outcome == "unknown"
    assert time.monotonic() - killed < 5


async def test_the_last_words_of_the_dead_are_heard_though_writing_to_them_has_failed(
    start: Callable[..., Child], caller: Bus, tmp_path: Path
) -> None:
    child = start()
    await child.line()
    assert await ask(caller, "q", n=0) == {"n": 0}
    command = Message.command("a", {"do": "start"})
    begun = await caller.send("q", command)
    await asyncio.sleep(0)  # it is written now
    deadline = time.monotonic() + 10
    while command.id not in ledger(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.001)  # this loop must not run: the start notice stays unread
    child.kill()
    late = await caller.send("q", Message.command("a", {"do": "start"}))
    assert begun.started is False
    ends = await soon(asyncio.gather(begun.answer, late.answer, return_exceptions=True))
    assert [end.outcome for end in ends if isinstance(end, DeliveryError)] == ["unknown", "refused"]


@pytest.mark.processes
async def test_nothing_that_was_worked_on_is_ever_called_refused(
    start: Callable[..., Child], connect: Callable[[], Bus], tmp_path: Path
) -> None:
    """Commands pour in while the consumer is killed: our writes fail while its last words lie unread with us."""
    refused = unknown = 0
    for round_ in range(8):
        child, caller = start(), connect()
        await child.line()
        sent: list[tuple[str, asyncio.Future[Message]]] = []
        bursts_to_live, bursts = 40 + 30 * round_, 0
        while bursts < bursts_to_live + 10:
            bursts += 1
            if bursts == bursts_to_live:
                os.kill(child.pid, signal.SIGKILL)
            try:
                for _ in range(20):
                    command = Message.command("a", {"do": "start", "pad": "x" * 200})
                    sent.append((command.id, (await caller.send("q", command)).answer))
            except BusUnavailableError:
                break
            await asyncio.sleep(0)
        ends = await soon(asyncio.gather(*(answer for _, answer in sent), return_exceptions=True))
        worked = set(ledger(tmp_path))
        for (id_, _), end in zip(sent, ends, strict=True):
            assert isinstance(end, DeliveryError)
            if end.outcome == "refused":
                refused += 1
                assert id_ not in worked, "worked on, and called refused"
            else:
                unknown += 1
        child.end()
    assert unknown
    assert refused


async def test_a_queue_of_a_killed_consumer_is_free_at_once(
    start: Callable[..., Child], directory: Path, caller: Bus, connect: Callable[[], Bus]
) -> None:
    child = start()
    await child.line()
    assert await ask(caller, "q", n=1) == {"n": 1}
    child.kill()
    assert (directory / f"{queue_stem('q')}.sock").exists(), "the dead leave their socket behind"
    with pytest.raises(BusUnavailableError, match="nobody consumes"):
        await connect().send("q", Message.command("a"))
    await connect().serve("q", echo)
    assert await ask(connect(), "q", n=2) == {"n": 2}


@pytest.mark.processes
async def test_of_many_that_race_for_a_queue_exactly_one_serves(
    start: Callable[..., Child], caller: Bus
) -> None:
    children = [start() for _ in range(4)]
    lines = await asyncio.gather(*(child.line() for child in children))
    assert sorted(lines) == ["BusUnavailableError"] * 3 + ["serving"]
    assert await ask(caller, "q", n=1) == {"n": 1}


async def test_an_orderly_end_leaves_no_files(start: Callable[..., Child], directory: Path) -> None:
    child = start()
    await child.line()
    child.tell("end")
    assert await asyncio.to_thread(child.process.wait, 10) == 0
    assert list(directory.iterdir()) == []


# --- forks ------------------------------------------------------------------------------------------------------


async def test_a_forked_child_does_not_keep_its_dead_parents_connections_or_name(
    start: Callable[..., Child], caller: Bus, connect: Callable[[], Bus]
) -> None:
    child = start()
    await child.line()
    held = await caller.send("q", Message.command("a", {"do": "hold"}))
    forked = (await soon((await caller.send("q", Message.command("a", {"do": "fork"}))).answer)).data[
        "result"
    ]
    try:
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(DeliveryError) as caught:
            await soon(held.answer, 2)
        assert caught.value.outcome == "refused"
        os.kill(forked, 0)  # it lives
        child.end()
        await connect().serve("q", echo)
    finally:
        os.kill(forked, signal.SIGKILL)


# From 3.12 on Python warns of threads at a fork; pytest has one for its timeout.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
async def test_a_bus_is_of_no_use_in_a_forked_child_and_unharmed_in_the_parent(caller: Bus) -> None:
    await caller.serve("q", echo)
    assert await ask(caller, "q", n=1) == {"n": 1}
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        word = "no error"
        try:
            caller.send("r", Message.command("a")).send(None)
        except BusUnavailableError as error:
            word = str(error)
        finally:
            os.write(writable, word.encode())
            os._exit(0)
    os.close(writable)
    with os.fdopen(readable) as stream:
        assert "before a fork" in stream.read()
    os.waitpid(child, 0)
    assert await ask(caller, "q", n=2) == {"n": 2}


# --- standstill -------------------------------------------------------------------------------------------------


async def test_a_consumer_that_stands_still_gets_its_commands_when_it_wakes(
    start: Callable[..., Child], connect: Callable[[], Bus]
) -> None:
    child = start()
    await child.line()
    known, stranger = connect(), connect()
    assert await ask(known, "q", n=0) == {"n": 0}
    os.kill(child.pid, signal.SIGSTOP)
    try:
        exchanges = [
            await soon(bus.send("q", Message.command("a", {"n": 1})), 5) for bus in (known, stranger)
        ]
        done, _ = await asyncio.wait([each.answer for each in exchanges], timeout=0.1)
        assert not done
    finally:
        os.kill(child.pid, signal.SIGCONT)
    answers = await soon(asyncio.gather(*(each.answer for each in exchanges)))
    assert [each.data["result"] for each in answers] == [{"n": 1}, {"n": 1}]


async def test_a_full_backlog_holds_a_caller_no_longer_than_the_connect_timeout(
    start: Callable[..., Child], directory: Path
) -> None:
    child = start("q", "3")
    await child.line()
    os.kill(child.pid, signal.SIGSTOP)
    strangers: list[socket.socket] = []
    try:

        def fill_the_backlog() -> None:
            for _ in range(64):
                stranger = socket.socket(socket.AF_UNIX)
                strangers.append(stranger)
                stranger.setblocking(False)
                stranger.connect(str(directory / f"{queue_stem('q')}.sock"))

        with pytest.raises(BlockingIOError):
            fill_the_backlog()
        async with LocalBus(directory, connect_timeout=3) as caller:
            began = time.monotonic()
            tries = [caller.send("q", Message.command("a")) for _ in range(5)]
            ends = await soon(asyncio.gather(*tries, return_exceptions=True))
            assert 2.5 < time.monotonic() - began < 12, "they wait together, not in turn"
            assert all(isinstance(end, BusUnavailableError) and "3 s" in str(end) for end in ends)
            waiting = asyncio.create_task(caller.send("q", Message.command("a", {"n": 5})))
            await asyncio.sleep(0)
            os.kill(child.pid, signal.SIGCONT)  # it makes room within the deadline
            answer = await soon((await soon(waiting)).answer)
            assert answer.data["result"] == {"n": 5}
    finally:
        os.kill(child.pid, signal.SIGCONT)
        for stranger in strangers:
            stranger.close()


async def test_what_waits_for_one_who_does_not_read_is_bounded(
    start: Callable[..., Child], directory: Path
) -> None:
    child = start()
    await child.line()
    async with LocalBus(directory, connect_timeout=0.2) as caller:
        await soon((await caller.send("q", Message.command("a"))).answer)
        os.kill(child.pid, signal.SIGSTOP)
        try:
            large = Message.command("a", {"do": "hold", "pad": "x" * 1_000_000})
            for _ in range(15):
                await soon(caller.send("q", large), 0.1)
            more = await soon(
                asyncio.gather(*(caller.send("q", large) for _ in range(5)), return_exceptions=True)
            )
            with pytest.raises(DeliveryError, match="does not read") as caught:
                await soon(caller.send("q", large))
        finally:
            os.kill(child.pid, signal.SIGCONT)
        assert caught.value.outcome == "not_sent"
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        assert any(isinstance(each, DeliveryError) for each in more)
        # Awake again it takes all that waited, and the next.
        answer = await soon((await caller.send("q", Message.command("a", {"n": 1}))).answer)
        assert answer.data["result"] == {"n": 1}


async def test_sixty_four_large_commands_at_once_all_come_back(
    start: Callable[..., Child], caller: Bus
) -> None:
    child = start()
    await child.line()
    results = await asyncio.gather(*(ask(caller, "q", n=n, pad="x" * 700_000) for n in range(64)))
    assert [each["n"] for each in results] == list(range(64))


# --- garbage ----------------------------------------------------------------------------------------------------


def raw_connection(directory: Path, queue: str = "q") -> socket.socket:
    """A connection by hand to the socket of a queue."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(5)
    connection.connect(str(directory / f"{queue_stem(queue)}.sock"))
    return connection


async def ending(connection: socket.socket) -> bytes:
    """All that the other side still says, up to the end that it must make."""

    def read() -> bytes:
        said = b""
        try:
            while chunk := connection.recv(65536):
                said += chunk
        except ConnectionResetError:
            pass
        return said

    try:
        return await soon(asyncio.to_thread(read), 6)
    finally:
        connection.close()


HELLO = frames.frame(frames.HELLO, 0, frames.hello("q"))
GOOD = Message.command("a").to_bytes()


GARBAGE = [
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    random.Random(1).randbytes(4096),
    b"\0" * 9,
    struct.pack("!IBI", 0xFFFFFFFF, frames.HELLO, 0),
    frames.frame(frames.COMMAND, 1, GOOD),
    frames.frame(frames.HELLO, 0, b"roster-bus/2\nq"),
    frames.frame(frames.HELLO, 0, frames.hello("another")),
    HELLO + frames.frame(99, 1, b"x"),
    HELLO + frames.frame(frames.ANSWER, 1, GOOD),
    HELLO + frames.frame(frames.COMMAND, 0, GOOD),
    HELLO + frames.frame(frames.COMMAND, 1, Message.command("hold").to_bytes()) * 2,
    HELLO + frames.frame(frames.PUBLISH, 0, b"\0"),
    HELLO + frames.frame(frames.PUBLISH, 0, b"\xff\xff" + GOOD),
    HELLO + frames.frame(frames.PUBLISH, 0, b"\0\1\xff" + GOOD),
    HELLO + struct.pack("!IBI", 2**21, frames.COMMAND, 1),
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
async def test_garbage_costs_its_sender_the_connection_and_hurts_nobody_else(
    directory: Path, caller: Bus, connect: Callable[[], Bus], garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    def on_delivery(delivery: Delivery) -> None:
        if delivery.message.action != "hold":
            echo(delivery)

    await connect().serve("q", on_delivery)
    assert await ask(caller, "q", n=1) == {"n": 1}
    connection = raw_connection(directory)
    connection.sendall(garbage)
    await ending(connection)
    assert await ask(caller, "q", n=2) == {"n": 2}
    assert [each.levelno for each in caplog.records] == [logging.WARNING], "logged once"


async def test_who_says_no_hello_is_closed_after_a_deadline(
    directory: Path, connect: Callable[[], Bus], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_guest, "HELLO_SECONDS", 0.05)
    await connect().serve("q", echo)
    connection = raw_connection(directory)
    connection.sendall(HELLO[:-1])
    assert await ending(connection) == b""


async def test_a_malformed_message_is_refused_counted_and_logged_once(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with LocalBus(directory) as bus:
        await bus.serve("q", echo, bindings=["#"])
        connection = raw_connection(directory)
        connection.sendall(HELLO)
        for number in (1, 2):
            connection.sendall(frames.frame(frames.COMMAND, number, b'{"not": "an event"}'))
        connection.sendall(frames.frame(frames.PUBLISH, 0, frames.published("k", b"[]")))
        connection.sendall(frames.frame(frames.COMMAND, 3, GOOD))
        await until(lambda: bus.malformed == 3)
        await asyncio.to_thread(connection.shutdown, socket.SHUT_WR)
        said = await ending(connection)
        assert said.startswith(frames.frame(frames.WELCOME, 0, frames.PROTOCOL))
        for number in (1, 2):
            assert frames.frame(frames.REFUSED, number, b"the message is malformed") in said
        assert frames.frame(frames.START, 3) in said
        assert len(caplog.records) == 1


FOREIGN = [
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    frames.frame(frames.WELCOME, 0, b"roster-bus/9\n"),
    frames.frame(frames.ANSWER, 1, GOOD),
    frames.frame(frames.SORRY, 0, b"another queue lives here"),
    frames.frame(frames.WELCOME, 0, frames.PROTOCOL) + frames.frame(frames.ANSWER, 1, b"no message"),
    frames.frame(frames.WELCOME, 0, frames.PROTOCOL) + frames.frame(frames.PROGRESS, 1, b"no message"),
    frames.frame(frames.WELCOME, 0, frames.PROTOCOL) + frames.frame(77),
]


@pytest.mark.parametrize("says", FOREIGN, ids=range(len(FOREIGN)))
async def test_a_caller_lets_go_of_a_program_that_is_no_consumer(
    directory: Path, caller: Bus, says: bytes
) -> None:
    await caller.publish("makes.the.directory", Message.event("x"))
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(str(directory / f"{queue_stem('q')}.sock"))
        foreign.listen()
        exchange = await caller.send("q", Message.command("a"))
        connection, _ = await asyncio.to_thread(foreign.accept)
        with connection:
            connection.sendall(says)
            with pytest.raises(DeliveryError):
                await soon(exchange.answer)


async def test_a_caller_that_does_not_read_its_answers_is_let_go(
    directory: Path, connect: Callable[[], Bus], caller: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_guest, "MAX_WAITING_BYTES", 2_000_000)
    monkeypatch.setattr(local_guest, "SLOW_SECONDS", 0.1)

    def generous(delivery: Delivery) -> None:
        delivery.reply(Message.result_for(delivery.message, "x" * 900_000))

    await connect().serve("q", generous)
    connection = raw_connection(directory)
    connection.sendall(HELLO)
    for number in range(1, 11):
        connection.sendall(frames.frame(frames.COMMAND, number, GOOD))
    exchanges = [await caller.send("q", Message.command("a")) for _ in range(10)]
    answers = await soon(asyncio.gather(*(each.answer for each in exchanges)))  # those who read get theirs
    assert len(answers) == 10

    def cut_off() -> bool:
        try:
            connection.send(frames.frame(frames.CANCEL, 99), socket.MSG_DONTWAIT)
        except BrokenPipeError:
            return True
        return False

    await until(cut_off)
    assert len(await ending(connection)) < 3_000_000


async def test_only_so_many_connections_are_let_in(directory: Path, connect: Callable[[], Bus]) -> None:
    async with LocalBus(directory, max_connections=2) as bus:
        await bus.serve("q", echo)
        first, second, third = connect(), connect(), connect()
        assert await ask(first, "q", n=1) == {"n": 1}
        assert await ask(second, "q", n=2) == {"n": 2}
        with pytest.raises(DeliveryError, match="too many connections") as caught:
            await ask(third, "q", n=3)
        assert caught.value.outcome == "refused"
        await first.close()

        async def let_in() -> bool:
            try:
                return bool(await ask(third, "q", n=4) == {"n": 4})
            except DeliveryError:
                return False

        async with asyncio.timeout(5):
            while not await let_in():
                await asyncio.sleep(0.01)
        assert await ask(second, "q", n=5) == {"n": 5}


# --- files ------------------------------------------------------------------------------------------------------


async def test_only_this_user_can_reach_the_sockets(directory: Path, caller: Bus) -> None:
    await caller.serve("q", echo)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {
        f"{queue_stem('q')}.sock": 0o600,
        f"{queue_stem('q')}.lock": 0o600,
    }


@pytest.mark.parametrize("ending_", ["sock", "lock", "both", "directory"])
async def test_a_consumer_whose_files_were_removed_makes_them_again(
    directory: Path, connect: Callable[[], Bus], ending_: str
) -> None:
    async with LocalBus(directory, check_interval=0.05) as bus:
        consumer = await bus.serve("q", echo)
        old = connect()
        assert await ask(old, "q", n=1) == {"n": 1}
        await until(lambda: consumer.healthy)
        if ending_ == "directory":
            shutil.rmtree(directory)
        for kind in {"both": ["sock", "lock"], "directory": []}.get(ending_, [ending_]):
            (directory / f"{queue_stem('q')}.{kind}").unlink()
        assert not consumer.healthy
        await until(lambda: consumer.healthy)
        assert await ask(connect(), "q", n=2) == {"n": 2}
        assert await ask(old, "q", n=3) == {"n": 3}, "connections outlive the file"


async def test_a_consumer_whose_name_was_taken_meanwhile_stays_unhealthy_until_it_is_free(
    directory: Path, connect: Callable[[], Bus], caplog: pytest.LogCaptureFixture
) -> None:
    thief = connect()
    async with LocalBus(directory, check_interval=0.02) as bus:
        consumer = await bus.serve("q", echo)
        shutil.rmtree(directory)
        directory.mkdir(mode=0o700)
        stolen = await thief.serve("q", echo)
        await until(lambda: any("cannot be restored" in each.message for each in caplog.records))
        assert stolen.healthy
        assert not consumer.healthy
        await stolen.close()
        await until(lambda: consumer.healthy)
        assert await ask(connect(), "q", n=2) == {"n": 2}


async def test_a_path_too_long_for_sockets_leads_every_process_to_the_same_short_one(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 80) / ("e" * 80)
    deep.mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(deep)
    short = sockets.prepare_directory(deep)
    try:
        assert stat.S_IMODE(short.stat().st_mode) == 0o700
        async with open_bus(f"local://{deep}") as node, open_bus(f"local://{link}") as caller:
            assert caller.url == f"local://{link}"
            await node.serve("q" * 255, echo)
            assert await ask(caller, "q" * 255, n=1) == {"n": 1}
        assert not short.exists(), "the last to close leaves nothing behind"
    finally:
        shutil.rmtree(short, ignore_errors=True)


@pytest.mark.parametrize("wrong", ["open", "link", "file"])
def test_a_shared_directory_prepared_by_somebody_else_is_not_trusted(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "roster-x"
    if wrong == "open":
        path.mkdir()
        path.chmod(0o755)
    elif wrong == "link":
        (tmp_path / "real").mkdir(mode=0o700)
        path.symlink_to(tmp_path / "real")
    else:
        path.write_text("")
    with pytest.raises(ConfigError, match="ROSTER_STATE_DIR"):
        sockets._own_directory(path)


async def test_a_directory_that_cannot_be_made_is_an_error_that_says_so() -> None:
    with pytest.raises(ConfigError, match="ROSTER_STATE_DIR"):
        await open_bus("local:///dev/null/bus").serve("q", echo)


# --- publishing between processes -------------------------------------------------------------------------------

LISTENER = """
import asyncio, sys
from roster.bus import open_bus
async def main():
    async with open_bus(sys.argv[1]) as bus:
        await bus.subscribe(["evt.#"], lambda key, message: print(key, message.data["n"], flush=True))
        print("listening", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_events_reach_listeners_in_other_processes_and_the_dead_leave_no_rubbish(
    directory: Path, caller: Bus
) -> None:
    child = Child(LISTENER, f"local://{directory}")
    try:
        await child.line()
        assert await caller.publish("evt.a.b", Message.event("a.b", {"n": 1})) == 1
        assert await child.line() == "evt.a.b 1"
        child.kill()

        async def handed() -> int:
            return await caller.publish("evt.a.b", Message.event("a.b", {"n": 2}))

        async with asyncio.timeout(5):
            while await handed():
                await asyncio.sleep(0.005)
        assert list(directory.glob("s*")) == []
    finally:
        child.end()


async def test_the_files_of_dead_listeners_are_swept_by_the_next_one(directory: Path, caller: Bus) -> None:
    child = Child(LISTENER, f"local://{directory}")
    try:
        await child.line()
        child.kill()
        assert len(list(directory.glob("s*"))) == 2
        await caller.subscribe(["evt.#"], lambda key, message: None)
        assert len(list(directory.glob("s*"))) == 2
        assert await caller.publish("evt.a.b", Message.event("a.b", {"n": 1})) == 1
    finally:
        child.end()


async def test_peers_bound_which_queues_are_reached(directory: Path, connect: Callable[[], Bus]) -> None:
    got: list[str] = []
    for name in ("a", "b"):

        def take(_: Delivery, name: str = name) -> None:
            got.append(name)

        await connect().serve(name, take, bindings=["ctl.#"])
    async with LocalBus(directory, peers=lambda: ["b", "missing"]) as caller:
        assert await caller.publish("ctl.x", Message.control("stop")) == 1
        await until(lambda: got == ["b"])


async def test_rubbish_in_the_directory_disturbs_nobody(directory: Path, caller: Bus) -> None:
    heard: list[str] = []
    await caller.subscribe(["#"], lambda key, _: heard.append(key))
    for name, content in (
        ("q1", b""),
        ("q2", b"[]"),
        ("q3", b'{"name": 1, "patterns": []}'),
        ("q4", b"\xff" * 100),
    ):
        (directory / f"{name}.sock").touch()
        (directory / f"{name}.lock").write_bytes(content)
    (directory / "q5.sock").touch()
    (directory / "q6.sock").symlink_to("/dev/zero")
    (directory / "q6.lock").symlink_to("/dev/zero")
    (directory / "q7.sock").touch()
    (directory / "q7.lock").write_text('{"name": "seven", "patterns": ["#"]}')
    assert await caller.publish("k", Message.event("k")) == 1
    await until(lambda: heard == ["k"])
