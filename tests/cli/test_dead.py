"""`dead` shows what nobody gets again, sends it again, and drops it when somebody says so."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pty
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from tests.cli.conftest import Result, Stage, editor, roster
from tests.cli.test_hostile import ATTACK
from tests.engines import own_bus

from roster import Message, MindBus
from roster.bus import open_bus
from roster.bus.amqp import AmqpBus, names
from roster.bus.amqp.envelope import Properties
from roster.bus.base import DeadLetter
from roster.bus.memory import MemoryBus

_FORMS = ("wide", "json", "yaml", "name")
UNSAFE = set("\x1b\x07\r\u202e\x9b")


async def _bury(url: str, *messages: Message, reason: str = "its nodes died") -> None:
    async with MindBus.connect(url) as mindbus:
        for message in messages:
            await mindbus.bus.bury(message, reason)


def bury(stage: Stage, *messages: Message, reason: str = "its nodes died") -> None:
    stage.thread.run(_bury(stage.url, *messages, reason=reason), timeout=10)


def ids() -> list[str]:
    return roster("dead", "list", "-o", "name").out.split()


def test_they_are_listed_oldest_first(stage: Stage) -> None:
    assert roster("dead", "list") == Result(0, "", "no dead letters\n")
    assert roster("dead", "list", "-o", "json").json["items"] == []
    first = Message.command("edit_text", {"text": "a"}, source="/ai-team/desk")
    second = Message.command("write_article", {"topic": "b"})
    bury(stage, first, second)

    lines = roster("dead", "list").out.splitlines()
    assert lines[0].split() == ["ID", "ACTION", "AGE", "REASON"]
    assert [line.split()[:2] for line in lines[1:]] == [[first.id, "edit_text"], [second.id, "write_article"]]
    assert lines[1].endswith("its nodes died")
    wide = roster("dead", "list", "-o", "wide", "--no-headers").out.splitlines()[0].split()
    assert wide[-3:] == ["/ai-team/desk", "<none>", str(len(first.to_bytes()))]
    item = roster("dead", "list", "-o", "json").json["items"][0]
    assert (item["id"], item["reason"], item["queue"]) == (first.id, "its nodes died", "")
    assert item["message"] == json.loads(first.to_bytes())
    assert ids() == [first.id, second.id]


def test_one_is_shown_whole(stage: Stage) -> None:
    command = Message.command(
        "edit_text", {"text": "a\nb"}, key="order-7", ancestors=("default/a", "default/b")
    )
    bury(stage, command)

    shown = roster("dead", "show", command.id).out
    for words in (
        command.id,
        "its nodes died",
        "edit_text",
        "order-7",
        "default/a > default/b",
        '"text": "a\\nb"',
    ):
        assert words in shown
    assert roster("dead", "show", command.id, "-o", "json").json["message"] == json.loads(command.to_bytes())
    assert roster("dead", "show", command.id, "-o", "yaml").out.startswith(f"id: {command.id}\n")
    missing = roster("dead", "show", "nothing")
    assert missing.status == 5
    assert missing.err == (
        "error: there is no dead letter 'nothing'; 'roster dead list' shows those there are\n"
    )


def test_one_that_is_answered_is_removed_and_the_result_printed(stage: Stage) -> None:
    stage.start(editor, "editor-001")
    command, other = (
        Message.command("edit_text", {"text": "a   b"}),
        Message.command("edit_text", {"text": 7}),
    )
    bury(stage, command, other)

    result = roster("dead", "retry", command.id)
    assert (result.status, result.json) == (0, {"edited_text": "a b"})
    assert result.err == f"dead letter {command.id} answered by default/editor-001, and removed\n"
    assert ids() == [other.id]
    assert roster("dead", "retry", command.id).status == 5
    assert roster("dead", "retry", other.id).status == 9
    assert roster("dead", "retry", other.id, "-n", "elsewhere").status == 7
    assert ids() == [other.id]


def test_they_are_dropped_when_somebody_says_so(stage: Stage) -> None:
    letters = [Message.command("work", {"n": n}) for n in range(4)]
    bury(stage, *letters)

    refused = roster("dead", "drop", letters[1].id)
    assert (refused.status, refused.err) == (
        1, "error: 1 dead letter would be dropped for good: add --yes\n",
    )  # fmt: skip
    assert roster("dead", "drop", letters[1].id, "--yes") == Result(
        0, f"dead letter {letters[1].id} dropped\n", ""
    )
    assert roster("dead", "drop", letters[0].id, "nothing", "--yes").status == 5
    assert ids() == [letter.id for letter in (letters[0], *letters[2:])]
    assert len(roster("dead", "drop", "--all", "-y").out.splitlines()) == 3
    assert roster("dead", "drop", "--all") == Result(0, "", "no dead letters\n")


@pytest.mark.parametrize(("answer", "status", "left"), [(b"n\n", 1, 2), (b"y\n", 0, 0)])
def test_on_a_terminal_it_asks_first(tmp_path: Path, answer: bytes, status: int, left: int) -> None:
    url = f"local://{tmp_path}/bus"
    asyncio.run(_bury(url, Message.command("work"), Message.command("work")))
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "roster", "dead", "drop", "--all", "--bus", url],
        stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    try:
        said = b""
        while b"[y/N]" not in said:
            said += os.read(ours, 4096)
        assert b"Drop 2 dead letters for good?" in said
        os.write(ours, answer)
        assert process.wait(30) == status
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)
    assert len(list((tmp_path / "bus" / "dead").glob("*.json"))) == left


@pytest.mark.parametrize("args", [["list", *more] for more in ([], *(["-o", form] for form in _FORMS))])
def test_what_strangers_left_is_made_safe(stage: Stage, args: list[str]) -> None:
    evil = Message.command(ATTACK, {ATTACK: ATTACK})
    evil.id, evil.source, evil.subject = "evil\u202eid", "/\u202es", "x"
    bury(stage, evil, reason=ATTACK + "\nsecond line")

    for command in (
        args,
        ["show", evil.id],
        ["show", evil.id, "-o", "json"],
        ["retry", evil.id],
        ["drop", evil.id, "-y"],
    ):
        result = roster("dead", *command)
        assert result.out + result.err
        assert not set(result.out + result.err) & UNSAFE, result
    assert ids() == []


@dataclass(frozen=True)
class Rubbish:
    """What somebody has put where the dead letters are, as a broker would hand it out."""

    id: str = "bad"
    reason: str = "malformed, sent to 'q'"
    buried_at: str = "no time"
    body: bytes = b"\xff\x00\x1b[2Jhello\nworld"
    message: Message | None = None
    queue: str = "q"


def put(stage: Stage, letter: Rubbish) -> None:
    async def append() -> None:
        bus = open_bus(stage.url)
        assert isinstance(bus, MemoryBus)
        bus.hub.dead.append(cast("DeadLetter", letter))

    stage.thread.run(append(), timeout=10)


def test_what_is_no_message_at_all_is_shown_and_can_be_dropped_but_not_sent(stage: Stage) -> None:
    put(stage, Rubbish())
    assert roster("dead", "list", "--no-headers").out.split()[:3] == ["bad", "<none>", "<unknown>"]
    item = roster("dead", "show", "bad", "-o", "json").json
    assert (item["message"], base64.b64decode(item["body_base64"])) == (None, Rubbish.body)
    shown = roster("dead", "show", "bad").out
    assert not set(shown) & UNSAFE
    assert "Body (17 bytes, no message):\n  \\xff\\x00\\x1b[2Jhello\n  world\n" in shown
    result = roster("dead", "retry", "bad")
    assert (result.status, "is no command" in result.err) == (6, True)
    assert roster("dead", "drop", "bad", "--yes").out == "dead letter bad dropped\n"
    assert ids() == []


@pytest.mark.parametrize("body", [b"", b"hello", b'{"action": "edit_text", "params": {}}'])
def test_a_letter_that_came_in_binary_mode_is_shown_as_the_event_that_it_is(
    stage: Stage, body: bytes
) -> None:
    message = Message.command("edit_text", {})
    put(stage, Rubbish(id=message.id, body=body, message=message))
    wanted = json.loads(message.to_bytes())
    assert roster("dead", "list", "-o", "json").json["items"][0]["message"] == wanted
    assert roster("dead", "show", message.id, "-o", "json").json["message"] == wanted
    assert '"type": "ai.team.command"' in roster("dead", "show", message.id).out


@pytest.mark.parametrize("bus", ["local", "amqp"])
def test_it_is_the_same_on_every_bus(
    bus: str, stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = own_bus() if bus == "amqp" else f"local://{tmp_path}/bus"
    monkeypatch.setenv("ROSTER_BUS", url)
    node = editor("editor-001", registry_url=stage.url, bus_url=url)
    stage.thread.run(node.start(), timeout=20)
    try:
        letters = [Message.command("edit_text", {"text": f"a  {n}"}) for n in range(3)]
        stage.thread.run(_bury(url, *letters), timeout=20)
        assert ids() == [letter.id for letter in letters]
        assert roster("dead", "retry", letters[1].id).json == {"edited_text": "a 1"}
        assert ids() == [letters[0].id, letters[2].id]
        assert "2 dead letters, the newest: " in roster("doctor").out
        assert roster("dead", "drop", letters[2].id, "-y").status == 0
        assert (
            json.loads(letters[0].to_bytes())
            == roster("dead", "show", letters[0].id, "-o", "json").json["message"]
        )
    finally:
        stage.thread.run(node.stop(), timeout=20)


def test_the_doctor_counts_what_is_no_message_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    url = own_bus()
    monkeypatch.setenv("ROSTER_BUS", url)
    monkeypatch.setenv("ROSTER_REGISTRY", "memory://nobody")

    async def bury() -> None:
        async with AmqpBus(url) as bus:
            await bus.bury(Message.command("edit_text", {}), "its nodes died")
            channel = await (await bus.serving.up(5.0)).channel(5.0)
            channel.publish("", names.DEAD, Properties(message_id="rubbish"), b"rubbish")
            await channel.close(5.0)

    asyncio.run(bury())
    assert ids()[-1] == "rubbish"
    said = roster("doctor").out
    assert "2 dead letters, the newest: at an unknown time without a reason; " in said
