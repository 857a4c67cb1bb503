"""`explain` names every node that has a capability, with the one reason that a call's error gives too."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.cli.conftest import Stage, editor, roster, writer
from tests.conftest import passport

from roster import AllNodesBusyError, NoCapableNodesError, Orchestrator

Team = tuple[str, str]


def test_those_that_a_call_would_choose_among_are_marked(team: Team) -> None:
    result = roster("explain", "write_article")

    assert result.status == 0
    assert [row[:5] for row in result.rows] == [
        ["*", "ai-team/writer-001", "ready", "0/3", "1.0.0"],
        ["*", "ai-team/writer-002", "ready", "0/3", "1.2.0"],
    ]
    assert all(line.endswith("candidate: 0 of 3 tasks") for line in result.out.splitlines()[1:])


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["-l", "tier=b"], "labels do not match tier=b"),
        (["--version", ">=1.1"], "version 1.0.0 is outside >=1.1.0"),
    ],
)
def test_the_one_that_is_passed_over_stands_behind_with_its_reason(
    team: Team, args: list[str], reason: str
) -> None:
    result = roster("explain", "write_article", *args)

    assert result.status == 0
    assert [row[:2] for row in result.rows] == [["*", "ai-team/writer-002"], ["-", "ai-team/writer-001"]]
    assert result.out.splitlines()[2].endswith(reason)


def test_a_capability_that_nobody_has_is_told_as_a_call_tells_it(team: Team) -> None:
    result = roster("explain", "compose_music")

    assert (result.status, result.out) == (7, "")
    assert result.err == roster("call", "compose_music").err


async def _refusal(url: str, **options: Any) -> NoCapableNodesError | AllNodesBusyError:
    async with Orchestrator.connect(url, url) as orchestrator:
        with pytest.raises((NoCapableNodesError, AllNodesBusyError)) as caught:
            await orchestrator.call("edit_text", {"text": "x"}, on_busy="fail", **options)
        assert isinstance(caught.value, NoCapableNodesError | AllNodesBusyError)
        return caught.value


def test_every_reason_is_the_one_of_the_error_that_a_call_ends_with(stage: Stage) -> None:
    drained = stage.start(editor, "drained")
    stage.start(editor, "elsewhere")
    checked = _broken("checked")
    checked.connect_to(stage.url, stage.url)
    stage.thread.run(checked.start(), timeout=10)
    stage.nodes.append(checked)
    assert drained.key == "default/drained"
    assert roster("drain", "drained").status == 0

    result = roster("explain", "edit_text", "-l", "role=x", "-o", "json")
    error = stage.thread.run(_refusal(stage.url, selector="role=x"), timeout=10)

    assert result.status == error.exit_code == 7
    assert {one["node"]: one["reason"] for one in result.json["nodes"]} == {
        row.node: row.reason for row in error.passed_over
    }
    assert [one["node"] for one in result.json["nodes"]] == [
        "default/checked", "default/drained", "default/elsewhere",
    ]  # fmt: skip
    assert not any(one["chosen"] for one in result.json["nodes"])
    assert result.err == f"error: {error.summary}\n"

    without = {
        one["node"]: one["reason"] for one in roster("explain", "edit_text", "-o", "json").json["nodes"]
    }
    assert without == {
        "default/checked": "capability withdrawn at present",
        "default/drained": "state draining",
        "default/elsewhere": "candidate: 0 of 1 tasks",
    }


def _broken(name: str) -> Any:
    node = editor(name)

    @node.check("edit_text")
    async def model_answers() -> bool:
        return False

    return node


def test_all_busy_is_another_status_than_nobody_can(stage: Stage) -> None:
    async def work() -> None:
        async with Orchestrator.connect(stage.url, stage.url) as orchestrator:
            await orchestrator.call("write_article", {"topic": "waiting"}, timeout=20)

    busy = writer("busy", document={"namespace": "default"}, registry_url=stage.url, bus_url=stage.url)
    stage.thread.run(busy.start(), timeout=10)
    stage.nodes.append(busy)
    tasks = [asyncio.run_coroutine_threadsafe(work(), stage.thread.loop) for _ in range(3)]
    try:
        stage.thread.run(_until_full(stage.url), timeout=10)
        result = roster("explain", "write_article")
        error = stage.thread.run(_refused_write(stage.url), timeout=10)
    finally:
        for task in tasks:
            task.cancel()

    assert result.status == error.exit_code == 8
    assert [row[:4] for row in result.rows] == [["-", "default/busy", "busy", "3/3"]]
    assert result.out.splitlines()[1].endswith(error.passed_over[0].reason)
    assert error.passed_over[0].reason == "full: 3 of 3 tasks"


async def _until_full(url: str) -> None:
    from roster import Registry
    from roster.registry import NodeRecord

    def full(record: NodeRecord) -> bool:
        return record.active_tasks == 3

    async with Registry.connect(url) as registry, asyncio.timeout(8):
        async for event in registry.watch():
            if event.name == "busy" and full(event.record):
                return


async def _refused_write(url: str) -> AllNodesBusyError:
    async with Orchestrator.connect(url, url) as orchestrator:
        with pytest.raises(AllNodesBusyError) as caught:
            await orchestrator.call("write_article", {"topic": "x"}, on_busy="fail")
        return caught.value


def test_a_mismatch_of_contracts_is_shown_wherever_one_looks(stage: Stage) -> None:
    for name, kind in (("a", "string"), ("b", "integer")):
        stage.put(passport(name, {"name": "write", "input_schema": {"topic": kind}}))

    listed = roster("get", "caps")
    assert listed.rows[0][:2] == ["write", "1.0.0!"]
    assert "warning: contract mismatch: write 1.0.0: " in listed.err
    assert "on default/a" in listed.err
    found = roster("get", "cap", "write", "-o", "json").json
    assert found["mismatch"] is True
    digests = found["contracts"]["1.0.0"]
    assert sorted(digests.values()) == [["default/a"], ["default/b"]]
    for digest in digests:
        assert digest.removeprefix("sha256:")[:12] in listed.err
        assert digest.removeprefix("sha256:")[:12] in roster("get", "caps", "-o", "wide").rows[0][4]
    assert "ContractMismatch=True" in roster("get", "nodes", "-o", "wide").out
    assert "ContractMismatch=True (SchemasDiffer: write 1.0.0" in roster("describe", "node", "a").out
    assert "Mismatch:      1.0.0: " in roster("describe", "cap", "write").out
    conditions = roster("get", "node", "a", "-o", "json").json["status"]["conditions"]
    assert [one["type"] for one in conditions] == ["ContractMismatch"]


def test_without_a_mismatch_nothing_is_marked(team: Team) -> None:
    result = roster("get", "caps", "-A")

    assert "!" not in result.out
    assert result.err == ""
    assert roster("get", "cap", "write_article", "-A", "-o", "json").json["mismatch"] is False
