"""The page on idempotency keys says what is so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.docs.markdown import ROOT

from roster.bus.keys import DEFAULT_WINDOW, MAX_KEY_BYTES
from roster.node.answerfile import MAX_ANSWERS, MAX_BYTES
from roster.orchestrator.keyed import ASKED_AT_ONCE

TEXT = (ROOT / "docs" / "idempotency.md").read_text(encoding="utf-8")


def test_its_example_runs_as_printed(private_state: Path, tmp_path: Path) -> None:
    program = tmp_path / "example.py"
    program.write_text(TEXT.split("```python\n")[1].split("```")[0], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(program)],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "ROSTER_STATE_DIR": str(private_state)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "the idempotency key 'invoice-A-17' was used with other params" in done.stdout
    assert (private_state / "answers" / "default.clerk-001.db").exists()


def test_its_numbers_are_those_of_the_code() -> None:
    words = " ".join(TEXT.split())
    assert f"1 to {MAX_KEY_BYTES} bytes" in words
    assert f"{DEFAULT_WINDOW:.0f} s without either" in words
    assert f"At most {MAX_ANSWERS:,} answers".replace(",", " ") in words
    assert f"and {MAX_BYTES // 2**20} MiB a node" in words
    assert f"{ASKED_AT_ONCE} at once" in words
