"""The cards of the examples, run by the orchestrator with the agents that they are for."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.examples.conftest import INPUT, Play

from examples.teams import EXAMPLES
from roster.cards import (
    ActionStep,
    CheckpointStep,
    CompleteStep,
    ConditionStep,
    ForeachStep,
    JumpStep,
    ParallelStep,
    ProcessCard,
    Step,
    SubprocessStep,
    WaitStep,
    examine,
)
from roster.orchestrator.runs.record import RunRecord
from roster.testing import Team

FOLDER = Path(__file__).parents[2] / "examples" / "cards"
CARDS = sorted(path for path in FOLDER.rglob("*.yaml") if not path.stem.endswith("_test"))


async def run(team: Team, name: str, **inputs: Any) -> RunRecord:
    return await team.orchestrator.run(
        EXAMPLES[name].path, {**EXAMPLES[name].inputs, **inputs}, no_nodes="fail", timeout=60
    )


async def until_it_waits(team: Team, run: str, kind: str) -> RunRecord:
    async with asyncio.timeout(60):
        async for record in team.orchestrator.runs.watch(run, interval=0.02):
            if record.waiting is not None and record.waiting["kind"] == kind:
                return record
            assert not record.ended, record
    raise AssertionError(f"{run} never waited for {kind}")


def visits(record: RunRecord, step: str) -> int:
    return max((one.visit for one in record.steps if one.id == step), default=0)


# -- the cards ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_each_is_without_fault_or_warning(path: Path) -> None:
    report = examine(path.read_text("utf-8"), source=str(path))
    assert report.card is not None
    assert [*report.faults, *report.warnings] == []


def test_together_they_use_all_that_a_card_can_say() -> None:
    steps: list[Step] = [step for path in CARDS for step in ProcessCard.load(path).steps.values()]
    assert {type(step) for step in steps} == {
        ActionStep, CheckpointStep, CompleteStep, ConditionStep, ForeachStep, JumpStep, ParallelStep, SubprocessStep,
        WaitStep,
    }  # fmt: skip
    actions = [step for step in steps if isinstance(step, ActionStep)]
    assert any(step.selector for step in actions)
    assert any(step.strategy for step in actions)
    assert any(step.when for step in steps)
    assert {step.retry.on_failure.kind for step in actions} == {"abort", "continue", "escalate", "goto"}
    assert {len(step.branches) == step.need for step in steps if isinstance(step, ParallelStep)} == {
        True,
        False,
    }
    assert any(step.max_concurrency > 1 for step in steps if isinstance(step, ForeachStep))
    waits = [step for step in steps if isinstance(step, WaitStep)]
    assert any(step.duration for step in waits)
    assert any(step.event for step in waits)
    assert {step.status for step in steps if isinstance(step, CompleteStep)} == {
        "success",
        "failure",
        "cancelled",
    }


# -- report ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "language", "keyword"),
    [("bees.txt", "en", "bees"), ("lighthouse.txt", "ru", "маяк"), ("brot.txt", "de", "brot")],
)  # fmt: skip
async def test_a_text_becomes_a_report(
    play: Play, output: Path, file: str, language: str, keyword: str
) -> None:
    async with play("report") as team:
        record = await run(team, "report", file=file)
    assert record.state == "succeeded", record.error
    assert record.result["language"] == language
    assert record.result["keywords"][0]["phrase"] == keyword
    plain = " ".join((INPUT / file).read_text("utf-8").split())
    summary = [sentence for part in record.result["parts"] for sentence in part["sentences"]]
    assert all(sentence in plain for sentence in summary)
    assert 100 < len(" ".join(summary)) < len(plain) / 1.5
    report = (output / f"{file}.report.md").read_text("utf-8")
    assert report.startswith(f"# Report on {file}\n\n## Keywords\n\n| phrase |")
    assert summary[0] in report
    assert f"- language: {language}" in report


@pytest.mark.parametrize("mirror", ["files-001", "files-002"])
async def test_one_copy_of_the_library_is_enough(play: Play, mirror: str) -> None:
    async with play("report", without=mirror) as team:
        record = await team.orchestrator.run(EXAMPLES["report"].path, {"file": "bees.txt"}, timeout=60)
    # Who publishes may be any of them, so the other copy does that too.
    assert record.state == "succeeded", record.error
    assert {one.node for one in record.steps if one.action == "write_file"} == {
        "examples/files-002" if mirror == "files-001" else "examples/files-001"
    }


async def test_a_file_that_is_not_there_fails_the_run_with_its_name(play: Play) -> None:
    async with play("report") as team:
        record = await run(team, "report", file="wasps.txt")
    assert record.state == "failed"
    assert record.error is not None
    assert "there is no file wasps.txt" in record.error["message"]


# -- plain words ----------------------------------------------------------------------------------------------


async def test_a_text_is_revised_until_it_is_easy_enough_and_then_released(play: Play, output: Path) -> None:
    async with play("plain_words") as team:
        started = await team.orchestrator.runs.start(EXAMPLES["plain_words"].path, {"file": "notice.txt"})
        waiting = (await until_it_waits(team, started, "approval")).waiting
        assert waiting is not None
        assert waiting["message"].startswith("Reading ease 38.9 -> ")
        assert not (output / "notice.txt").exists()
        await team.orchestrator.runs.approve(started, by="anna")
        record = await team.orchestrator.runs.wait(started, timeout=60)
    assert record.state == "succeeded", record.error
    assert visits(record, "simplify") == 2
    assert record.result["before"] < 40
    assert record.result["after"] >= 62
    assert (output / "notice.txt").read_text("utf-8") == record.result["text"]


async def test_what_cannot_be_made_easier_is_shown_as_it_is(play: Play, output: Path) -> None:
    async with play("plain_words") as team:
        started = await team.orchestrator.runs.start(
            EXAMPLES["plain_words"].path, {"file": "prikaz.txt", "ease": 90}
        )
        await until_it_waits(team, started, "approval")
        await team.orchestrator.runs.reject(started, by="anna", comment="still too hard")
        record = await team.orchestrator.runs.wait(started, timeout=60)
    assert record.state == "failed"
    assert not output.exists()
    assert visits(record, "more_to_do") == visits(record, "simplify") < 8


# -- orders ---------------------------------------------------------------------------------------------------


async def test_a_table_with_many_wrong_rows_is_asked_about(play: Play, output: Path) -> None:
    async with play("orders") as team:
        started = await team.orchestrator.runs.start(EXAMPLES["orders"].path, {"file": "orders.csv"})
        waiting = (await until_it_waits(team, started, "approval")).waiting
        assert waiting is not None
        assert waiting["message"].startswith("5 of 20 rows are wrong")
        await team.orchestrator.runs.approve(started)
        record = await team.orchestrator.runs.wait(started, timeout=60)
    assert record.state == "succeeded", record.error
    assert record.result["rows"] == 15
    assert record.result["outliers"] == [{"row": "1012", "value": 1540.0}]
    report = (output / "orders.csv.report.md").read_text("utf-8")
    assert "| 8 | date | no date: 2025-13-03 |" in report
    assert "Ivanova 2, Müller 2" in report


async def test_a_sound_table_is_not_asked_about(play: Play) -> None:
    types = {"station": "text", "day": "date", "temperature": "number", "rain": "number"}
    async with play("orders") as team:
        record = await run(team, "orders", file="measurements.csv", types=types, column="rain")
    assert record.state == "succeeded", record.error
    assert record.result["left_out"] == 0
    assert visits(record, "ask") == 0


async def test_a_table_too_small_to_have_outliers_has_none(play: Play, library: Path) -> None:
    (library / "small.csv").write_text("a;b\n1;2\n", "utf-8")
    async with play("orders") as team:
        record = await run(
            team, "orders", file="small.csv", types={"a": "integer", "b": "number"}, column="b"
        )
    assert record.state == "succeeded", record.error
    assert record.result["outliers"] == []


async def test_what_is_no_such_table_ends_with_a_failure_of_its_own(play: Play) -> None:
    async with play("orders") as team:
        record = await run(team, "orders", file="measurements.csv")
    assert (record.state, record.result) == ("failed", "measurements.csv cannot be read as such a table")


# -- incident -------------------------------------------------------------------------------------------------


async def test_logs_are_read_again_while_it_gets_worse_and_somebody_is_called(
    play: Play, library: Path, output: Path
) -> None:
    shutil.copytree(INPUT / "logs", library / "logs")
    async with play("incident") as team:
        started = await team.orchestrator.runs.start(EXAMPLES["incident"].path, {"logs": "logs/*.log"})
        await until_it_waits(team, started, "event")
        await team.orchestrator.runs.signal(started, "acknowledged", {"by": "Anna"})
        record = await team.orchestrator.runs.wait(started, timeout=60)
    assert record.state == "succeeded", record.error
    assert visits(record, "weigh") == 2  # the first look, and the one that found no more
    assert record.result["errors"] == 24
    assert record.result["critical"] == 4
    report = (output / "incident.md").read_text("utf-8")
    assert "- by: Anna" in report
    assert "| logs/app.log | critical | 1 | 20 | database: out of connections" in report
    assert "| logs/web.log | error | 4 | 43 | GET /api/orders/\\<n\\> -\\> HTTP 502 |" in report


async def test_a_log_that_grows_and_grows_is_looked_at_four_times(play: Play, library: Path) -> None:
    log = library / "app.log"
    log.write_text("2025-03-04 10:00:00 ERROR no\n", "utf-8")
    async with play("incident") as team:
        started = await team.orchestrator.runs.start(EXAMPLES["incident"].path, {"logs": "*.log"})
        pauses = 0
        async with asyncio.timeout(60):
            async for record in team.orchestrator.runs.watch(started, interval=0.02):
                if (now := visits(record, "pause")) > pauses:
                    pauses = now
                    with log.open("a", encoding="utf-8") as opened:
                        opened.write("2025-03-04 10:00:00 ERROR no\n")
    assert record.state == "succeeded", record.error
    assert visits(record, "weigh") == 4
    assert record.result["errors"] == 4


async def test_nobody_is_called_for_what_is_not_critical(play: Play) -> None:
    async with play("incident") as team:
        record = await run(team, "incident", logs="logs/web.log")
    assert record.state == "succeeded", record.error
    assert record.result["acknowledged"] == {"by": "nobody"}
    assert [one.state for one in record.steps if one.id == "call"] == ["skipped"]


async def test_quiet_logs_are_no_incident(play: Play, library: Path) -> None:
    (library / "calm.log").write_text("2025-03-04 10:00:00 INFO all is well\n" * 3, "utf-8")
    async with play("incident") as team:
        record = await run(team, "incident", logs="*.log")
    assert (record.state, record.result) == ("succeeded", "no errors in 3 lines")


# -- handbook -------------------------------------------------------------------------------------------------


async def test_broken_links_fail_the_run_and_are_reported(play: Play, output: Path) -> None:
    async with play("handbook") as team:
        record = await run(team, "handbook")
    assert record.state == "failed"
    assert {(one["page"], one["link"]) for one in record.result["broken"]} == {
        ("handbook/index.md", "guide/holidays.md"),
        ("handbook/index.md", "people.md"),
        ("handbook/index.md", "guide/together.md#house-rules"),
        ("handbook/guide/first-day.md", "door.png"),
        ("handbook/guide/together.md", "../archive/"),
        ("handbook/guide/together.md", "[the plan][plan]"),
        ("handbook/guide/праздники.md", "together.md#встречи"),
    }
    assert "## 7 of 15 links" in (output / "broken-links.md").read_text("utf-8")


async def test_sound_links_are_fine(play: Play, library: Path) -> None:
    (library / "a.md").write_text("# A\n\n[b](b.md#b) [a](#a)\n", "utf-8")
    (library / "b.md").write_text("# B\n\n[a](a.md)\n", "utf-8")
    async with play("handbook") as team:
        record = await run(team, "handbook", pages="*.md")
    assert (record.state, record.result) == ("succeeded", {"links": 3, "broken": []})


# -- a full disk ----------------------------------------------------------------------------------------------


async def test_a_report_that_cannot_be_written_waits_for_a_person(play: Play, output: Path) -> None:
    output.write_text("a file where the directory should be", "utf-8")
    async with play("handbook") as team:
        started = await team.orchestrator.runs.start(EXAMPLES["handbook"].path, EXAMPLES["handbook"].inputs)
        await until_it_waits(team, started, "escalation")
        output.unlink()
        await team.orchestrator.runs.approve(started, comment="there is room again")
        record = await team.orchestrator.runs.wait(started, timeout=60)
    assert record.state == "failed"  # the links are broken still
    assert (output / "broken-links.md").exists()
