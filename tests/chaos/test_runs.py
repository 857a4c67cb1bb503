"""The judge of the fault runs of process cards: what is skipped, done twice, and excused by an agent's death."""

from __future__ import annotations

import json
from pathlib import Path

from chaos.ledger import Effects
from chaos.runs import judge

Line = tuple[str, str, int, float]


def ledger(tmp_path: Path, *lines: Line) -> Effects:
    path = tmp_path / "ledger"
    with path.open("w") as file:
        for what, command, pid, at in lines:
            line = {"what": what, "command": command, "node": "chaos/a1", "pid": pid, "at": at}
            file.write(json.dumps(line) + "\n")
    return Effects.read(path)


def test_what_was_never_finished_is_skipped(tmp_path: Path) -> None:
    effects = ledger(tmp_path, ("start", "c0", 1, 1.0), ("end", "c0", 1, 1.1), ("start", "c1", 1, 2.0))
    judged = judge(effects, ["c0", "c1", "c2"], {})
    assert (judged.skipped, judged.twice, judged.unexcused) == (["c1", "c2"], [], {})


def test_work_of_an_agent_that_was_killed_in_the_middle_is_excused(tmp_path: Path) -> None:
    effects = ledger(
        tmp_path,
        ("start", "c0", 1, 1.0),  # killed at it
        ("start", "c0", 2, 2.0),
        ("end", "c0", 2, 2.1),
        ("start", "c1", 1, 0.8),
        ("end", "c1", 1, 0.9),  # killed before it can have handed the answer over
        ("start", "c1", 2, 2.0),
        ("end", "c1", 2, 2.1),
    )
    judged = judge(effects, ["c0", "c1"], {1: 1.1})
    assert (judged.skipped, sorted(judged.twice), judged.unexcused) == ([], ["c0", "c1"], {})


def test_work_done_twice_without_such_a_death_is_seen(tmp_path: Path) -> None:
    effects = ledger(
        tmp_path,
        ("start", "alive", 1, 1.0),  # both live
        ("start", "alive", 2, 2.0),
        ("end", "alive", 2, 2.1),
        ("start", "long", 3, 1.0),
        ("end", "long", 3, 1.1),  # killed long after it was done
        ("start", "long", 2, 9.0),
        ("end", "long", 2, 9.1),
        ("start", "same", 2, 3.0),
        ("stopped", "same", 2, 3.1),
        ("start", "same", 2, 4.0),  # the same agent, again
        ("end", "same", 2, 4.1),
    )
    judged = judge(effects, ["alive", "long", "same"], {3: 8.0})
    assert judged.skipped == []
    assert sorted(judged.unexcused) == ["alive", "long", "same"]
