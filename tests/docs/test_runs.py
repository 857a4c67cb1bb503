"""The page on runs says what is so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.docs.markdown import ROOT

from roster.orchestrator import homed
from roster.orchestrator.runs import executor, identity, looks, runs

TEXT = (ROOT / "docs" / "runs.md").read_text(encoding="utf-8")


def test_its_example_runs_as_printed(private_state: Path, tmp_path: Path) -> None:
    program = tmp_path / "example.py"
    program.write_text(TEXT.split("```python\n")[1].split("```")[0], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(program)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "ROSTER_STATE_DIR": str(private_state)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "write#1 succeeded default/writer-001" in done.stdout
    assert (private_state / "runs.sqlite").exists()


def test_its_numbers_are_those_of_the_code() -> None:
    words = " ".join(TEXT.split())
    assert f"waited for up to {homed._PATIENCE:.0f} seconds" in words
    assert f"gone for {identity._GRACE:.0f} seconds" in words
    assert f"few at first ({executor._AT_FIRST}, then twice as many each second)" in words
    assert f"one with {['no', 'one', 'two', 'three'][looks._SUSPECT]} strikes last" in words
    assert f"strikes ({runs._DEFAULT_RECOVERIES}) a run is given up" in words
    assert f"| `{runs.AT_ONCE}` | {runs._DEFAULT_AT_ONCE} |" in words
    assert f"| `{runs.RECOVERIES}` | {runs._DEFAULT_RECOVERIES} |" in words
    assert f"| `{runs.RETENTION}` | {runs._DEFAULT_RETENTION / 86400:.0f}d |" in words
