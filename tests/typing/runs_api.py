"""What users write with runs of process cards, as mypy --strict must see it; the tests run it too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, assert_type

from roster import Orchestrator, ProcessCard, RunRecord, StepRecord, sync

CARD = {"name": "card", "steps": [{"type": "complete", "result": "done"}]}


async def async_runs(registry_url: str, bus_url: str, runs_url: str) -> None:
    """Run a card, and look at its record."""
    card = ProcessCard.from_dict(CARD)
    async with Orchestrator.connect(registry_url, bus_url, runs_url=runs_url) as orchestrator:
        record = await orchestrator.run(card, {"topic": "bees"}, run_id="typed")
        assert_type(record, RunRecord)
        assert_type(record.result, Any)
        assert_type(record.error, Mapping[str, Any] | None)
        assert_type(record.steps, tuple[StepRecord, ...])
        assert_type(await orchestrator.runs.start(card), str)
        assert_type(await orchestrator.runs.list(states=["failed"]), list[RunRecord])
        async for seen in orchestrator.runs.watch("typed"):
            assert_type(seen, RunRecord)


def plain_runs(registry_url: str, bus_url: str, runs_url: str, folder: Path) -> None:
    """Use the form that is not async."""
    file = folder / "card.json"
    file.write_text('{"steps": [{"type": "complete", "result": "done"}]}')
    with sync.Orchestrator.connect(registry_url, bus_url, runs_url=runs_url) as orchestrator:
        assert_type(orchestrator.run(file), sync.RunRecord)
        run = orchestrator.runs.start(CARD)
        assert_type(run, str)
        assert_type(orchestrator.runs.wait(run), RunRecord)
        assert_type(orchestrator.runs.list(limit=1), list[RunRecord])
        for seen in orchestrator.runs.watch(run):
            assert_type(seen, RunRecord)
