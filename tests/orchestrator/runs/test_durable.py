"""Runs outlive their orchestrators: killed, frozen or closed in the middle, they are finished by the next."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import eventually
from tests.orchestrator.runs.conftest import Stage, Urls, on_both_databases, staged, steps

from roster import Orchestrator
from roster.cards import ProcessCard
from roster.orchestrator.runs import looks, writes
from roster.orchestrator.runs.book import Book
from roster.orchestrator.runs.database import tables
from roster.orchestrator.runs.engine import Engine
from roster.orchestrator.runs.identity import Identity, Known
from roster.orchestrator.runs.record import RunRecord
from roster.orchestrator.runs.world import Place
from roster.registry.holder import Holder, this_process
from roster.store import open_store

SERVE = """
import asyncio, sys
from roster import Orchestrator

async def main():
    async with Orchestrator.connect(*sys.argv[1:3], runs_url=sys.argv[3]) as orchestrator:
        await orchestrator.runs.serve()

asyncio.run(main())
"""

CARD = steps(
    {"id": "before", "action": "echo", "params": {"value": "before"}, "output": "a"},
    {"id": "held", "action": "hold", "output": "b"},
    {"id": "after", "action": "echo", "params": {"value": "after"}, "output": "c"},
)
DONE = {"a": "before", "b": "gate", "c": "after"}


@pytest.fixture
def orchestrators(file_urls: Urls, runs_url: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The orchestrators of a test, in processes; whatever lives at the end is killed."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
async def stage(file_urls: Urls, runs_url: str) -> AsyncIterator[Stage]:
    async with staged(file_urls, runs_url) as made:
        yield made


def serve(stage: Stage, orchestrators: list[subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", SERVE, *stage.urls, stage.runs_url])
    orchestrators.append(process)
    return process


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Book]:
    book = await asyncio.to_thread(Book, url)
    try:
        yield book
    finally:
        book.close()


async def ended(stage: Stage, run: str) -> RunRecord:
    return await stage.orchestrator.runs.wait(run, timeout=60)


@on_both_databases
async def test_a_step_in_flight_is_found_again_and_finished_ones_are_not_done_again(
    stage: Stage, orchestrators: list[subprocess.Popen[bytes]]
) -> None:
    runs = stage.orchestrator.runs
    run = await runs.start(CARD, detach=True)
    first = serve(stage, orchestrators)
    await eventually(lambda: stage.count("hold"), 60)
    first.kill()
    first.wait()
    serve(stage, orchestrators)
    async with asyncio.timeout(60):
        async for record in runs.watch(run):
            held = next((step for step in record.steps if step.id == "held"), None)
            if held is not None and held.redispatched:
                break  # the second one has handed the same work to the same node, which is at it still
    stage.gates["gate"].set()
    record = await ended(stage, run)
    assert record.result == DONE
    assert record.recoveries == 1
    assert [name for name, _ in stage.calls] == ["echo", "hold", "echo"]


async def test_an_answer_that_nobody_heard_is_kept_and_found(
    stage: Stage, orchestrators: list[subprocess.Popen[bytes]]
) -> None:
    run = await stage.orchestrator.runs.start(CARD, detach=True)
    first = serve(stage, orchestrators)
    await eventually(lambda: stage.count("hold"), 60)
    first.send_signal(signal.SIGSTOP)
    stage.gates["gate"].set()
    load = stage.orchestrator.team.router.load
    await eventually(lambda: (at := load("default/actor-001")) is not None and at.active == 0, 60)
    first.kill()
    first.wait()
    serve(stage, orchestrators)
    record = await ended(stage, run)
    assert record.result == DONE
    assert stage.count("hold") == 1


@on_both_databases
async def test_an_orchestrator_that_leaves_in_good_order_lets_go_of_its_runs(
    file_urls: Urls, runs_url: str
) -> None:
    async with staged(file_urls, runs_url) as stage:
        run = await stage.orchestrator.runs.start(CARD)
        await eventually(lambda: stage.count("hold"))
        await stage.orchestrator.close()
        async with opened(runs_url) as book:
            assert not looks.executors(book.engine)
            assert book.get(run).state == "running"
        async with Orchestrator.connect(*file_urls, runs_url=runs_url) as second:
            serving = asyncio.create_task(second.runs.serve())
            async with asyncio.timeout(60):
                async for record in second.runs.watch(run):
                    if any(step.redispatched for step in record.steps):
                        break
            stage.gates["gate"].set()
            record = await second.runs.wait(run, timeout=60)
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving
    assert record.result == DONE
    assert record.recoveries == 0
    assert [name for name, _ in stage.calls] == [
        "echo",
        "hold",
        "echo",
    ]  # the second joined what was being done


@on_both_databases
async def test_several_orchestrators_share_the_runs(
    stage: Stage, orchestrators: list[subprocess.Popen[bytes]]
) -> None:
    runs = stage.orchestrator.runs
    names = [f"shared-{number}" for number in range(40)]
    card = steps({"id": "say", "action": "echo", "params": {"value": "${input.n}"}, "output": "n"})
    for number, name in enumerate(names):
        await runs.start(card, {"n": number}, run_id=name, detach=True)
    for _ in range(2):
        serve(stage, orchestrators)
    records = [await ended(stage, name) for name in names]
    assert [record.result for record in records] == [{"n": number} for number in range(40)]
    assert stage.count("echo") == 40


@on_both_databases
async def test_who_lost_a_walk_between_its_claim_and_its_beginning_does_not_begin_it(stage: Stage) -> None:
    run = await stage.orchestrator.runs.start(CARD, detach=True)
    async with opened(stage.runs_url) as book:
        book.write(looks.take_up("first", [], room=1, suspects=(), recoveries=10))
        book.write(looks.take_up("second", ["first"], room=1, suspects=(), recoveries=10))
        with pytest.raises(writes.GivenAwayError):
            book.write(writes.begin_walk(run, run, "first", root=True))
        book.write(writes.begin_walk(run, run, "second", root=True))
        assert book.get(run).executor == "second"


async def test_the_queues_of_orchestrators_that_are_gone_are_removed(
    stage: Stage, orchestrators: list[subprocess.Popen[bytes]], file_urls: Urls
) -> None:
    from dbos import DBOS

    run = await stage.orchestrator.runs.start(CARD, detach=True)
    first = serve(stage, orchestrators)
    await eventually(lambda: stage.count("hold"), 60)
    first.kill()
    first.wait()
    stage.gates["gate"].set()
    async with Orchestrator.connect(*file_urls, runs_url=stage.runs_url) as second:
        await second.runs.start(CARD)
        assert (await second.runs.wait(run, timeout=60)).state == "succeeded"
    async with Orchestrator.connect(*file_urls, runs_url=stage.runs_url) as third:
        await third.runs.start(CARD)

        async def queues() -> bool:
            return len(await DBOS.list_queues_async()) == 1

        async with asyncio.timeout(60):
            while not await queues():
                await asyncio.sleep(0.05)


@on_both_databases
async def test_everything_that_waits_goes_on_waiting_in_the_next_process(
    stage: Stage, orchestrators: list[subprocess.Popen[bytes]]
) -> None:
    card = steps(
        {
            "id": "all",
            "type": "parallel",
            "branches": [
                {"id": "p", "type": "human_checkpoint", "message": "ok?", "output": "p"},
                {"id": "e", "type": "wait", "event": "ring", "output": "e"},
                {
                    "id": "f",
                    "type": "foreach",
                    "items": [1, 2, 3],
                    "do": {"action": "hold", "output": "h"},
                    "output": "f",
                },
                {"id": "d", "type": "wait", "duration": "1s"},
            ],
        }
    )
    runs = stage.orchestrator.runs
    run = await runs.start(card, detach=True)
    first = serve(stage, orchestrators)
    await stage.waits(run, "approval")
    await stage.waits(run, "event")
    await eventually(lambda: stage.count("hold"), 60)
    first.kill()
    first.wait()
    await runs.signal(run, "ring", 1)  # while nobody runs it
    await runs.approve(run, "p", by="ann")
    serve(stage, orchestrators)
    stage.gates["gate"].set()
    record = await ended(stage, run)
    assert record.result["e"] == 1
    assert record.result["p"]["by"] == "ann"
    assert record.result["f"] == ["gate"] * 3
    assert stage.count("hold") == 3


# -- who is dead, and who is to blame -----------------------------------------------------------------------------


def _gone() -> Holder:
    here = this_process()
    return Holder(here.host, here.boot_id, here.pid_namespace, here.pid, here.start + 1)


async def test_a_dead_process_of_this_machine_is_known_at_once_and_a_lease_that_is_gone_after_a_while(
    memory_urls: Urls,
) -> None:
    async with open_store(memory_urls[0]) as store:
        me = Identity(store)
        await me.open()
        try:
            far = Holder("elsewhere", "another boot", "pid:[1]", 7, 7)
            others = [
                Known("proven", _gone(), store.url),
                Known("far", far, store.url),
                Known("other-registry", far, "etcd://elsewhere"),
                Known(me.id, this_process(), store.url),
            ]
            assert await me.dead(others) == ["proven"]
            me._missing["far"] -= 20.0  # seconds that it has been missing
            assert await me.dead(others) == ["proven", "far"]
            await store.put("/ai-team/executors/far", b"{}")
            assert await me.dead(others) == ["proven"]
        finally:
            await me.close()


@pytest.fixture
def book(runs_url: str) -> Iterator[Book]:
    book = Book(runs_url)
    yield book
    book.close()


def _put(book: Book, run: str, executor: str | None, state: str = "running", **more: object) -> None:
    row = {
        "id": run,
        "card": "card",
        "digest": "d",
        "cards": "{}",
        "state": state,
        "inputs": "{}",
        "options": "{}",
        "created_at": float(len(run)),
        "executor": executor,
        **more,
    }

    def write(connection: object) -> None:
        all_ = tables()
        writes.insert_new(all_.runs, connection, [row])  # type: ignore[arg-type]  # it is one
        walk = {"id": run, "run": run, "order": "{}", "executor": executor, "ended": False}
        writes.insert_new(all_.walks, connection, [walk])  # type: ignore[arg-type]  # it is one

    book.write(write)


def _take(
    book: Book, me: str, *dead: str, room: int = 10, suspects: Collection[str] = (), recoveries: int = 5
) -> looks.TakenUp:
    return book.write(looks.take_up(me, dead, room=room, suspects=suspects, recoveries=recoveries))


@on_both_databases
def test_what_the_dead_held_and_what_nobody_holds_is_taken_once(book: Book) -> None:
    _put(book, "a", "dead")
    _put(book, "bb", None, "pending")
    _put(book, "ccc", "alive")
    assert _take(book, "me", "dead", room=1).walks == ["a"]
    assert _take(book, "me", "dead").walks == ["bb"]
    assert _take(book, "me", "dead").walks == []
    assert (book.get("a").recoveries, book.get("bb").recoveries) == (1, 0)


@on_both_databases
def test_a_run_that_never_gets_on_is_given_up_and_can_be_taken_up_again(book: Book) -> None:
    _put(book, "killer", "e0")
    _put(book, "innocent", "e0")
    for turn in range(20):
        taken = _take(book, f"e{turn + 1}", f"e{turn}")
        book.write(writes.leave_step("innocent", _place(book, turn), "succeeded", None, ()))
        if taken.given_up:
            break
    assert taken.given_up == {"killer": ["killer"]}
    record = book.get("killer")
    assert record.state == "dead"
    assert record.error is not None
    assert "roster run resume killer" in record.error["message"]
    assert record.recoveries == 5  # as often as it may; the next gave it up
    assert book.get("innocent").state == "running"
    book.revive("killer")
    assert book.get("killer").state == "pending"
    assert "killer" in _take(book, "me").walks


def _place(book: Book, number: int) -> Place:
    place = Place("", f"s{number}", 1)
    step = ProcessCard.from_dict({"steps": [{"id": "s", "action": "echo"}]}).steps["s"]
    book.write(writes.enter_step("innocent", place, step, number))
    return place


@on_both_databases
def test_suspects_are_taken_up_one_at_a_time(book: Book) -> None:
    _put(book, "a", "dead", strikes=2, progress_before=0)
    _put(book, "bb", "dead", strikes=2, progress_before=0)
    _put(book, "ccc", "dead")
    taken = _take(book, "me", "dead")
    assert taken.walks == ["ccc", "a"]
    assert taken.suspects == ["a"]
    assert _take(book, "me", "dead", suspects=["a"]).walks == []
    assert _take(book, "me", "dead").walks == ["bb"]


def test_a_run_without_an_orchestrator_is_called_stuck(book: Book) -> None:
    _put(book, "lonely", "gone")
    holder = _gone()
    row = {"id": "gone", "holder": writes.to_json(holder.to_dict()), "store": "s", "since": 0.0}
    book.write(lambda connection: writes.insert_new(tables().executors, connection, [row]))
    stuck = book.get("lonely").stuck
    assert stuck is not None
    assert f"pid {os.getpid()}" in stuck
    assert "roster orchestrate" in stuck


def test_the_database_is_private(book: Book, runs_url: str) -> None:
    assert Path(runs_url.removeprefix("sqlite://")).stat().st_mode & 0o077 == 0


@on_both_databases
async def test_what_breaks_off_is_taken_up_again_and_given_up_when_it_always_does(
    memory_urls: Urls, runs_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that is away for a moment, or a defect of ours, must neither be remembered nor strand the run."""
    monkeypatch.setenv("ROSTER_RUN_RECOVERIES", "2")
    take, broken = writes.take_signal, 0

    def breaking(*args: str) -> writes.Write:
        nonlocal broken
        if broken > 0:
            broken -= 1
            raise OSError("the database is away")
        return take(*args)

    monkeypatch.setattr(writes, "take_signal", breaking)
    async with staged(memory_urls, runs_url) as stage:
        runs = stage.orchestrator.runs
        card = steps({"id": "w", "type": "wait", "event": "ring", "output": "e"})
        broken = 2
        run = await runs.start(card)
        await eventually(lambda: broken == 0, 60)
        await runs.signal(run, "ring", 1)
        record = await runs.wait(run, timeout=60)
        assert record.result == {"e": 1}
        assert record.recoveries == 2
        broken = 1000
        run = await runs.start(card)
        record = await runs.wait(run, timeout=60)
        assert record.state == "dead"
        assert record.error is not None
        assert (
            "broke off 3 times in a row, last with OSError: the database is away" in record.error["message"]
        )
        broken = 0
        await runs.resume(run)
        await runs.signal(run, "ring", 2)
        assert (await runs.wait(run, timeout=60)).result == {"e": 2}


@on_both_databases
def test_what_only_waits_is_never_given_up_and_holds_no_suspect_back(book: Book) -> None:
    _put(book, "waits", "o0")
    step = ProcessCard.from_dict(steps({"id": "ask", "type": "human_checkpoint", "message": "?"})).steps[
        "ask"
    ]
    place = Place("", "ask", 1)
    for number in range(1, 30):
        book.write(writes.begin_walk("waits", "waits", f"o{number - 1}", root=True))
        book.write(writes.enter_step("waits", place, step, 1))
        book.write(writes.note_step("waits", place.key, state="waiting", waiting='{"kind":"approval"}'))
        assert _take(book, f"o{number}", f"o{number - 1}").walks == ["waits"], number
    record = book.get("waits")
    assert (record.state, record.recoveries) == ("waiting", 29)
    _put(book, "kills", "o29")
    for number in range(30, 34):
        taken = _take(book, f"o{number}", f"o{number - 1}", suspects=["waits"])
    assert taken.suspects == ["kills"], "one that waits is not in its way"


async def test_runs_that_wait_for_a_person_keep_no_others_from_being_taken_up(
    memory_urls: Urls, runs_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROSTER_RUNS_AT_ONCE", "2")
    async with staged(memory_urls, runs_url) as stage:
        runs = stage.orchestrator.runs
        ask = steps({"id": "ok", "type": "human_checkpoint", "message": "ok?"})
        asking = [await runs.start(ask, run_id=f"ask-{number}", detach=True) for number in range(4)]
        serving = asyncio.create_task(runs.serve())
        for run in asking:
            await stage.waits(run, "approval")
        run = await runs.start(steps({"action": "echo", "params": {"value": 1}}), detach=True)
        assert (await runs.wait(run, timeout=60)).state == "succeeded"
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving


async def test_runs_that_the_engine_could_not_take_are_taken_in_the_next_round(
    memory_urls: Urls, runs_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resume, failed = Engine.resume, 0

    async def failing(self: Engine, walks: Sequence[str]) -> None:
        nonlocal failed
        if walks and not failed:
            failed += 1
            raise OSError("the database is away")
        await resume(self, walks)

    monkeypatch.setattr(Engine, "resume", failing)
    async with staged(memory_urls, runs_url) as stage:
        run = await stage.orchestrator.runs.start(
            steps({"action": "echo", "params": {"value": 1}}), detach=True
        )
        serving = asyncio.create_task(stage.orchestrator.runs.serve())
        assert (await stage.orchestrator.runs.wait(run, timeout=60)).state == "succeeded"
        assert failed == 1
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving


async def test_an_engine_that_could_not_be_opened_to_the_end_is_closed(
    memory_urls: Urls, runs_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    around, failed = looks.around, 0

    def failing(*args: Any) -> looks.Around:
        nonlocal failed
        failed += 1
        if failed == 1:
            raise OSError("the database is away")
        return around(*args)

    monkeypatch.setattr(looks, "around", failing)
    async with staged(memory_urls, runs_url) as stage:
        card = steps({"action": "echo", "params": {"value": 1}})
        with pytest.raises(OSError, match="away"):
            await stage.orchestrator.run(card)
        assert (await stage.orchestrator.run(card)).state == "succeeded"
