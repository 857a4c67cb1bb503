"""The page of the examples is true: every command on it is run, and brings what is shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.docs import tour as tours
from tests.docs.markdown import Block, Document

from examples.teams import EXAMPLES

PAGE = Document.read("examples/README.md")
CONSOLES = [block for block in PAGE.blocks if block.language == "console"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("block", CONSOLES, ids=str)
def test_its_commands_bring_what_it_shows(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tours, "DEADLINE", 120.0)  # a whole team starts and ends within one command
    with tours.tour(tmp_path) as following:
        following.follow(block)


def test_each_example_has_a_section_with_its_command() -> None:
    assert set(EXAMPLES) <= {name for level, name in PAGE.headings if level == 2}
    shown = " ".join(command for block in CONSOLES for command, _ in tours.commands(block))
    assert {name for name in EXAMPLES if f"-m examples {name}" in shown} == set(EXAMPLES)


def test_every_block_is_run_and_every_variable_is_one() -> None:
    assert {block.language for block in PAGE.blocks} == {"console"}
    read = set()
    for file in (Path(__file__).parents[2] / "examples" / "agents").glob("*.py"):
        read |= set(re.findall(r"\"((?:LLM|EXAMPLES)_[A-Z_]+)\"", file.read_text("utf-8")))
    assert set(re.findall(r"`((?:LLM|EXAMPLES)_[A-Z_]+)`", PAGE.text)) == read
