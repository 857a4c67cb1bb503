"""`drain`, `undrain`, `delete` and `prune` change what is registered, and say so."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Result, Stage, roster, writer
from tests.conftest import eventually, passport

from roster import MindBus, Node
from roster._loops import LoopThread
from roster.bus.mindbus import Answer


def _state(name: str = "ai-team/writer-001") -> str:
    found = roster("get", "node", name, "-o", "json")
    return found.json["status"]["state"] if found.status == 0 else "gone"


# -- drain and undrain ------------------------------------------------------------------------------------------------


def test_a_drained_node_gets_no_work_until_it_is_undrained(stage: Stage) -> None:
    node = stage.start(writer, "writer-001")

    assert roster("drain", "writer-001", "-n", "ai-team") == Result(0, "node/writer-001 drained\n", "")
    assert node.state == "draining"
    assert _state() == "draining"
    refused = roster("call", "write_article", "-p", "topic=x", "--timeout", "1s")
    assert refused.status == 7
    assert "ai-team/writer-001" in refused.err

    assert roster("undrain", "ai-team/writer-001") == Result(0, "node/writer-001 undrained\n", "")
    assert node.state == "ready"
    assert roster("call", "write_article", "-p", "topic=x").status == 0


def test_drain_can_wait_until_the_work_is_done(stage: Stage) -> None:
    node = stage.start(writer, "writer-001")
    bus, answer = stage.thread.run(_begin_waiting_call(stage.url, node), timeout=10)
    # The command is taken back while drain waits: then there is nothing left to wait for.
    cancelling = threading.Timer(0.3, stage.thread.loop.call_soon_threadsafe, [answer.cancel])
    cancelling.start()

    assert roster("drain", "node/writer-001", "-n", "ai-team", "--wait", "--timeout", "10s").status == 0
    cancelling.join()
    stage.thread.run(bus.close(), timeout=10)
    assert node.active_tasks == 0


def test_drain_gives_up_waiting_at_its_deadline(stage: Stage) -> None:
    node = stage.start(writer, "writer-001")
    bus, _ = stage.thread.run(_begin_waiting_call(stage.url, node), timeout=10)

    result = roster("drain", "ai-team/writer-001", "--wait", "--timeout", "300ms")
    stage.thread.run(bus.close(), timeout=10)
    assert result.status == 10
    assert "ai-team/writer-001 still runs 1 commands after 0.3 s" in result.err


async def _begin_waiting_call(url: str, node: Node) -> tuple[MindBus, Answer]:
    bus = MindBus.connect(url)
    answer = await bus.send_command(
        node.passport.mindbus_queue, "write_article", {"topic": "waiting"}, timeout=30
    )
    await eventually(lambda: node.active_tasks == 1)
    return bus, answer


def test_a_node_that_cannot_be_told_is_marked_all_the_same(stage: Stage) -> None:
    stage.put({**passport("silent", "work"), "status": {"state": "ready"}})

    result = roster("drain", "silent", "--timeout", "1s")
    assert (result.status, result.out) == (0, "node/silent drained\n")
    assert result.err.startswith("warning: default/silent itself could not be told (")
    assert result.err.endswith("callers pass it over all the same\n")
    assert _state("silent") == "draining"


def test_undrain_tells_of_other_reasons(stage: Stage) -> None:
    node = stage.start(writer, "writer-001")

    async def pause() -> None:
        async with MindBus.connect(stage.url) as bus:
            await bus.send_control(node.passport.mindbus_queue, "pause")

    stage.thread.run(pause(), timeout=10)
    roster("drain", "ai-team/writer-001")

    result = roster("undrain", "ai-team/writer-001")
    assert (result.status, result.out) == (0, "node/writer-001 undrained\n")
    assert result.err == "warning: ai-team/writer-001 still takes no new work: pause\n"


def test_a_drain_and_an_undrain_at_once_leave_the_node_ready(stage: Stage) -> None:
    stage.start(writer, "writer-001")

    for _ in range(3):
        assert roster("drain", "ai-team/writer-001").err == ""
        assert roster("undrain", "ai-team/writer-001").err == ""
        assert _state() == "ready"


def test_draining_nobody_has_the_status_of_not_found(stage: Stage) -> None:
    assert roster("drain", "nobody").status == 5
    assert roster("undrain", "nobody").status == 5


# -- delete -----------------------------------------------------------------------------------------------------------


def _dead(stage: Stage, name: str) -> None:
    """Leave the passport of a node whose lease has ended."""
    document: dict[str, Any] = passport(name, "work")
    document["metadata"] |= {"uid": "11111111-1111-4111-8111-111111111111", "generation": 1}
    document["status"] = {"state": "ready", "last_heartbeat": "2025-01-01T00:00:00Z"}
    stage.put(document)


def test_a_dead_node_is_deleted(stage: Stage) -> None:
    _dead(stage, "ghost")
    _dead(stage, "wraith")

    assert _state("ghost") == "offline"
    assert roster("delete", "node/ghost", "node/wraith") == Result(
        0, "node/ghost deleted\nnode/wraith deleted\n", ""
    )
    assert _state("ghost") == "gone"
    assert roster("delete", "node", "ghost").status == 5


def test_a_live_node_is_not_deleted_unasked(stage: Stage) -> None:
    stage.start(writer, "writer-001")

    result = roster("delete", "node", "writer-001", "-n", "ai-team")
    assert result.status == 1
    assert result.err.count("\n") == 1
    assert "add --yes" in result.err
    assert _state() == "ready"
    assert roster("delete", "node", "writer-001", "-n", "ai-team", "--yes").status == 0


@pytest.mark.parametrize(("answer", "status"), [(b"n\n", 1), (b"y\n", 0), (b"\x03", 130)])
def test_on_a_terminal_it_asks_first(file_urls: tuple[str, str], answer: bytes, status: int) -> None:
    thread = LoopThread("asked").start()
    node = writer("writer-001", registry_url=file_urls[0], bus_url=file_urls[1])
    thread.run(node.start(), timeout=10)
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "roster", "delete", "node", "ai-team/writer-001"],
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            preexec_fn=_own_terminal,
            env={**os.environ, "ROSTER_REGISTRY": file_urls[0], "ROSTER_BUS": file_urls[1]},
        )  # fmt: skip
        said = b""
        while b"[y/N]" not in said:
            said += os.read(ours, 4096)
        assert b"ai-team/writer-001 is ready: it will drop its work and register again" in said
        os.write(ours, answer)
        for _ in range(10):
            try:
                assert process.wait(3) == status
                break
            except subprocess.TimeoutExpired:
                # CPython misses a Ctrl-C in the moment between its last look and the read: press it again.
                os.write(ours, b"\x03")
        else:
            pytest.fail("it did not end")
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)
        thread.run(node.stop(), timeout=10)
        thread.stop()


def _own_terminal() -> None:
    """Make the terminal on stdin the one that Ctrl-C is read from."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


# -- prune ------------------------------------------------------------------------------------------------------------


def test_prune_removes_the_dead_alone(stage: Stage) -> None:
    stage.start(writer, "writer-001")
    _dead(stage, "ghost")

    assert roster("prune", "--dry-run") == Result(0, "node default/ghost would be pruned\n", "")
    assert _state("ghost") == "offline"
    assert roster("prune", "--older-than", "1000d") == Result(0, "", "nothing to prune\n")
    assert roster("prune", "--older-than", "1h") == Result(0, "node default/ghost pruned\n", "")
    assert _state("ghost") == "gone"
    assert _state() == "ready"


# -- validate and schema ----------------------------------------------------------------------------------------------

_GOOD = json.dumps(passport("good", "work"))


def test_a_good_passport_is_ok(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(_GOOD)

    assert roster("validate", f"{tmp_path}/p.json") == Result(
        0, f"{tmp_path}/p.json: ok (default/good)\n", ""
    )


def test_every_fault_is_listed_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(
        "apiVersion: ai-team.dev/v1\nkind: NodePassport\nmetadata:\n  name: Writer\n"
        "spec:\n  version: one\n  capabilities: 5\n"
    )

    result = roster("validate", str(file))
    assert result.status == 1
    assert [line.split(": ")[:2] for line in result.out.splitlines()] == [
        [f"{file}:4:3", "metadata.name"],
        [f"{file}:6:3", "spec.version"],
        [f"{file}:7:3", "spec.capabilities"],
    ]


def test_unknown_fields_are_warned_of_and_fail_only_when_strict(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(
        "apiVersion: ai-team.dev/v1\nkind: NodePassport\nmetadata: {name: a}\nspec: {colour: red}\n"
    )

    result = roster("validate", str(file))
    assert (result.status, result.out) == (0, f"{file}: ok (default/a)\n")
    assert result.err.startswith(f"warning: {file}:4:8: spec.colour: ")
    strict = roster("validate", "--strict", str(file))
    assert (strict.status, strict.out, strict.err) == (1, "", result.err)


def test_directories_are_searched_and_standard_input_is_read(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    for place in ("a.yaml", "deep/b.yml", "deep/er/c.json", "deep/notes.txt", ".git/d.yaml"):
        (tmp_path / place).write_text(_GOOD if place != ".git/d.yaml" else "[")
    (tmp_path / "deep" / "loop").symlink_to(tmp_path)

    assert [line.split(":")[0] for line in roster("validate", str(tmp_path)).out.splitlines()] == [
        f"{tmp_path}/a.yaml", f"{tmp_path}/deep/b.yml", f"{tmp_path}/deep/er/c.json",
    ]  # fmt: skip
    assert roster("validate", "-", stdin=b"nonsense").out.startswith("<stdin>:1:1: ")
    assert roster("validate", "-", stdin=_GOOD.encode()).out == "<stdin>: ok (default/good)\n"
    (tmp_path / "empty").mkdir()
    assert "holds no *.yaml" in roster("validate", f"{tmp_path}/empty").err


def test_a_file_that_is_not_there_is_a_fault() -> None:
    result = roster("validate", "/nowhere/p.yaml", "-o", "json")

    assert result.status == 1
    (report,) = result.json["files"]
    assert (result.json["ok"], report["ok"], report["passports"]) == (False, False, [])
    assert "cannot read the file" in report["faults"][0]["message"]


def test_the_schema_is_printed() -> None:
    schema = roster("schema").json

    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert roster("schema", "-o", "yaml").out.startswith("$schema:")
