"""The answers that a node keeps outlive it, for a window, within bounds, and never stand in its way."""

from __future__ import annotations

import os
import resource
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.conftest import passport

from roster._clock import boottime
from roster.bus.keys import scope_of
from roster.errors import ConfigError
from roster.node import Node, answerfile
from roster.node.answerfile import Kept
from roster.node.answers import Answers

PARAMS = bytes(16)


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def scope(number: int) -> str:
    return scope_of("default", "work", f"key-{number}")


def answer(text: str = "done") -> Kept:
    return Kept(PARAMS, ok=True, data=f'{{"result":"{text}"}}'.encode())


@asynccontextmanager
async def opened(
    team: str = "sqlite:///one",
    clock: Callable[[], float] | None = None,
    problems: list[str | None] | None = None,
) -> AsyncIterator[Answers]:
    kept = Answers(
        "ns/writer",
        team=lambda: team,
        window=60.0,
        report=(problems if problems is not None else []).append,
        now=clock if clock is not None else Clock(),
    )
    try:
        yield kept
    finally:
        await kept.close()


async def test_an_answer_is_found_again_by_another_process_of_the_same_name_and_by_nobody_elses_key(
    private_state: Path,
) -> None:
    async with opened() as kept:
        assert await kept.find(scope(1)) is None
        assert await kept.keep(scope(1), answer())
    async with opened() as kept:
        assert await kept.find(scope(1)) == answer()
        assert await kept.find(scope(2)) is None
    async with opened("sqlite:///another") as kept:
        assert await kept.find(scope(1)) is None, "a node of the same name in another registry"


async def test_the_file_is_private_and_stands_where_the_documentation_says(private_state: Path) -> None:
    async with opened() as kept:
        await kept.keep(scope(1), answer())
    path = private_state / "answers" / "ns.writer.db"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_a_node_of_a_registry_in_memory_leaves_no_file(private_state: Path) -> None:
    async with opened("memory://one") as kept:
        assert await kept.keep(scope(1), answer())
        assert await kept.find(scope(1)) == answer()
    assert not private_state.exists()


async def test_nothing_is_opened_before_the_first_key(private_state: Path) -> None:
    async with opened():
        pass
    assert not private_state.exists()


async def test_an_answer_is_gone_when_its_window_is_over(private_state: Path) -> None:
    clock = Clock()
    async with opened(clock=clock) as kept:
        await kept.keep(scope(1), answer())
        clock.time += 59.9
        assert await kept.find(scope(1)) == answer()
        clock.time += 0.2
        assert await kept.find(scope(1)) is None
        await kept.keep(scope(2), answer())
    with sqlite3.connect(private_state / "answers" / "ns.writer.db") as db:
        assert db.execute("SELECT count(*) FROM answers").fetchone() == (1,)
    db.close()


async def test_after_a_restart_of_the_machine_the_window_begins_anew(
    private_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from roster.store.sqlite import boot

    clock = Clock()
    async with opened(clock=clock) as kept:
        await kept.keep(scope(1), answer())
    monkeypatch.setattr(boot, "boot_id", lambda: b"another boot, 16")
    clock.time = 5.0
    async with opened(clock=clock) as kept:
        assert await kept.find(scope(1)) == answer()
        clock.time += 59.0
        assert await kept.find(scope(1)) == answer()
        clock.time += 2.0
        assert await kept.find(scope(1)) is None


async def test_above_its_bounds_the_oldest_answers_go(
    private_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answerfile, "MAX_ANSWERS", 5)
    async with opened() as kept:
        for number in range(8):
            await kept.keep(scope(number), answer())
        found = [await kept.find(scope(number)) is not None for number in range(8)]
    assert found == [False] * 3 + [True] * 5
    monkeypatch.setattr(answerfile, "MAX_BYTES", 3 * len(answer().data))
    async with opened() as kept:
        await kept.keep(scope(9), answer())
        found = [await kept.find(scope(number)) is not None for number in range(10)]
    assert found == [False] * 6 + [True] * 2 + [False] + [True]


async def test_what_cannot_be_written_is_kept_in_memory_said_and_written_later(private_state: Path) -> None:
    private_state.mkdir()
    blocker = private_state / "answers"
    blocker.write_text("a file where the directory should be")
    problems: list[str | None] = []
    async with opened(problems=problems) as kept:
        assert not await kept.keep(scope(1), answer())
        assert await kept.find(scope(1)) == answer()
        assert len(problems) == 1
        assert "cannot be written" in str(problems[0])
        blocker.unlink()
        assert await kept.keep(scope(2), answer("two"))
        assert problems[1:] == [None]
    async with opened() as kept:
        assert await kept.find(scope(1)) == answer(), "written with the next"
        assert await kept.find(scope(2)) == answer("two")


FULL = """
import asyncio, resource, sys
from roster.node.answerfile import Kept
from roster.node.answers import Answers
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
async def main():
    problems = []
    kept = Answers("ns/writer", team=lambda: "sqlite:///one", window=60.0, report=problems.append)
    small = Kept(bytes(16), True, b'{"result":1}')
    print(await kept.keep("00" * 16, Kept(bytes(16), True, b"x" * 100_000)), (await kept.find("00" * 16)) is not None)
    print((await kept.find("11" * 16)) == small, bool(problems))
    print(problems, file=sys.stderr)
    await kept.close()
asyncio.run(main())
"""


async def test_on_a_full_disk_what_was_kept_is_still_found_and_nothing_is_damaged(
    private_state: Path,
) -> None:
    small = Kept(bytes(16), ok=True, data=b'{"result":1}')
    async with opened(clock=boottime) as kept:
        await kept.keep("11" * 16, small)
    size = (private_state / "answers" / "ns.writer.db").stat().st_size
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] in (resource.RLIM_INFINITY, -1)
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(size)],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
        env={**os.environ},
    )
    assert done.stdout.split() == ["False", "True", "True", "True"], (done.stdout, done.stderr)
    async with opened(clock=boottime) as kept:
        assert await kept.find("11" * 16) == small
        assert await kept.keep("22" * 16, small)


async def test_a_damaged_file_is_set_aside_and_begun_anew(
    private_state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened() as kept:
        await kept.keep(scope(1), answer())
    path = private_state / "answers" / "ns.writer.db"
    path.write_bytes(b"no database at all " * 400)
    async with opened() as kept:
        assert await kept.find(scope(1)) is None
        assert await kept.keep(scope(1), answer("again"))
        assert await kept.find(scope(1)) == answer("again")
    assert path.with_suffix(".damaged").exists()
    assert "begun anew" in caplog.text


async def test_a_file_that_is_removed_while_it_is_used_is_noticed_and_made_again(
    private_state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = private_state / "answers" / "ns.writer.db"
    async with opened() as kept:
        await kept.keep(scope(1), answer())
        path.unlink()
        assert await kept.keep(scope(2), answer())
    assert "was removed or replaced" in caplog.text
    async with opened() as kept:
        assert await kept.find(scope(2)) == answer()


async def test_a_link_in_place_of_the_file_is_not_followed(private_state: Path, tmp_path: Path) -> None:
    (private_state / "answers").mkdir(parents=True, mode=0o700)
    (private_state / "answers" / "ns.writer.db").symlink_to(tmp_path / "victim")
    problems: list[str | None] = []
    async with opened(problems=problems) as kept:
        assert not await kept.keep(scope(1), answer())
    assert problems
    assert not (tmp_path / "victim").exists()


def test_the_window_is_checked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="answers_window is above 0"):
        Node(passport(), answers_window=0)
    monkeypatch.setenv("ROSTER_ANSWERS_WINDOW", "an hour")
    with pytest.raises(ConfigError, match="ROSTER_ANSWERS_WINDOW is a number of seconds"):
        Node(passport())
