"""The page on faults names tests and scenarios: all of them exist, and every test of faults is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from chaos import scenarios

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", PAGE)
ROWS = [
    line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| Rule", "|---"))
]


def _tests_in(path: Path) -> set[str]:
    """Return the names of a file's tests."""
    return set(re.findall(r"^(?:async )?def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED}))
def test_every_test_that_the_page_names_is_there(file: str) -> None:
    assert {name for where, name in NAMED if where == file} <= _tests_in(ROOT / file)


def test_every_row_has_a_test() -> None:
    assert len(ROWS) > 30
    assert [row for row in ROWS if "::test_" not in row] == []


def test_the_page_names_every_test_of_faults() -> None:
    own = set().union(
        *(_tests_in(path) for path in Path(__file__).parent.glob("test_*.py") if path.name != "test_table.py")
    )
    assert own <= {name for _, name in NAMED}


def test_the_page_names_every_scenario_and_no_other() -> None:
    assert set(re.findall(r"`make chaos`: ([\w-]+)", PAGE)) == set(scenarios.ALL)
