"""The examples of docs/testing.md and of the docstrings do what they say."""

from __future__ import annotations

import ast
import asyncio
import doctest
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import roster.testing
from roster.testing import Ledger, Member, SyncTeam, Team

_PAGE = Path(__file__).parents[2] / "docs" / "testing.md"


def test_the_examples_of_the_page_pass_as_the_tests_that_they_are(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python( conftest)?\n(.*?)^```", _PAGE.read_text(), re.MULTILINE | re.DOTALL)
    count = 0
    for number, (conftest, code) in enumerate(blocks):
        (tmp_path / ("conftest.py" if conftest else f"test_{number}.py")).write_text(code)
        count += len(re.findall(r"^(?:async )?def test_", code, re.MULTILINE))
    assert count >= 9
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "-o", "asyncio_mode=auto",
         "-o", "asyncio_default_fixture_loop_scope=function", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )  # fmt: skip
    assert f"{count} passed" in done.stdout, done.stdout + done.stderr


def test_every_fault_of_the_table_exists() -> None:
    table = [line for line in _PAGE.read_text().splitlines() if line.startswith("| ") and "`" in line]
    named = set(re.findall(r"\b(member|team)\.(\w+)\(", "\n".join(table)))
    assert len(named) >= 12
    for owner, name in named:
        assert hasattr(Member if owner == "member" else Team, name), (owner, name)


def _documented() -> Iterator[tuple[str, str]]:
    yield "roster.testing", roster.testing.__doc__ or ""
    for owner in (Team, SyncTeam, Ledger, Member):
        for name, thing in [("", owner), *inspect.getmembers(owner)]:
            own = isinstance(thing, type) or name in vars(owner)
            if own and (text := inspect.getdoc(thing)) and ">>>" in text and not name.startswith("__"):
                yield f"{owner.__name__}.{name}".rstrip("."), text


@pytest.mark.parametrize(
    ("name", "text"), list(_documented()), ids=lambda value: value if "\n" not in value else ""
)
async def test_the_examples_of_the_docstrings_run(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_article(topic: str) -> dict[str, str]:
        return {"article": f"All about {topic}"}

    async with Team() as team:
        writer = await team.add("write_article", write_article)
        await team.call("write_article", {"topic": "bees"})
        await team.call("write_article", {"topic": "tides"})
        names: dict[str, Any] = {
            "Team": Team,
            "SyncTeam": SyncTeam,
            "asyncio": asyncio,
            "monkeypatch": monkeypatch,
            "team": team,
            "write_article": write_article,
            "writer": writer,
        }
        if name != "Ledger":
            team.ledger.clear()
        await _run(text, names)
        if name == "roster.testing":
            await names["test_another_writer_is_asked_when_the_first_dies"]()


async def _run(text: str, names: dict[str, Any]) -> None:
    examples = doctest.DocTestParser().get_examples(text)
    assert examples
    for example in examples:
        tree = ast.parse(example.source)
        last = tree.body[-1]
        mode = "eval" if isinstance(last, ast.Expr) else "exec"
        node: Any = ast.Expression(last.value) if isinstance(last, ast.Expr) else tree
        code = compile(node, "docstring", mode, flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        value = eval(code, names)
        if inspect.isawaitable(value):
            value = await value
        if example.want:
            assert repr(value) == example.want.strip()
