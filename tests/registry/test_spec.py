"""docs/registry-spec.md tells the truth: its examples run, its words and numbers are the code's."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from roster.registry import EventType, NodeStatus, catalog, grace, keys, settings, status, watching, writer
from roster.registry.facts import CORDONED

TEXT = (Path(__file__).parents[2] / "docs" / "registry-spec.md").read_text("utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
STATUSES = re.findall(r"```json status\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_the_programs_run(program: str, tmp_path: Path) -> None:
    path = tmp_path / "example.py"
    path.write_text(program, "utf-8")
    done = subprocess.run([sys.executable, "-W", "error", path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", STATUSES)
def test_the_status_is_one_and_every_field_of_it_is_read(text: str) -> None:
    decoded = NodeStatus.decode(text.encode(), "the specification")
    assert json.loads(decoded.encode()) == json.loads(text)


def test_there_are_examples_of_both() -> None:
    assert len(PROGRAMS) == 2
    assert len(STATUSES) == 1


def test_its_words_and_numbers_are_those_of_the_code() -> None:
    assert f"{keys.NODES}{{namespace}}/{{name}}" in TEXT
    assert f"{keys.STATUS}{{namespace}}/{{name}}" in TEXT
    assert CORDONED in TEXT
    for state in (*status.STATES, "unknown"):
        assert f"| `{state}` |" in TEXT
    table = TEXT[TEXT.index("### Events") : TEXT.index("## 8.")]
    for kind in get_args(EventType):
        assert f"`{kind}`" in table
    for sentence in (
        f"TTL {settings.DEFAULT_TTL:g} s by default",
        f"(`ROSTER_RETENTION`, {settings.DEFAULT_RETENTION:g})",
        f"at most every {writer.LOAD_INTERVAL:g} s",
        f"more than {grace.MASS_COUNT} nodes and more than {grace.MASS_SHARE:.0%}".replace("%", " %"),
        f"at most {catalog.MAX_GRACE:g} s",
        f"within {catalog.FOUNDING_TIMEOUT:g} s by the reader's own",
        f"{watching.MAX_WAITING:,} events behind".replace(",", " "),
        f"{status.MAX_STATUS_BYTES // 1024} KiB, {status.MAX_CONDITIONS} conditions, {status.MAX_WITHDRAWN} withdrawn",
    ):
        assert sentence in " ".join(TEXT.split()), sentence
