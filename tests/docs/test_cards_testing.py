"""docs/cards-testing.md is true: its files are written, and its commands bring what it shows."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.docs.markdown import Document
from tests.docs.tour import commands, same

from roster.cli import main

PAGE = Document.read("docs/cards-testing.md")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's files, where its commands are run."""
    for block in PAGE.blocks:
        if block.language == "yaml":
            assert block.argument, f"{block}: a file has a name"
            (tmp_path / block.argument).write_text(block.text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_its_commands_bring_what_it_shows(files: Path) -> None:
    shown = [one for block in PAGE.blocks if block.language == "console" for one in commands(block)]
    for command, output in shown:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            status = main(shlex.split(command)[1:])
        found = printed.getvalue() + (f"[{status}]\n" if status else "")
        assert same(output, found), f"$ {command}\n{found}"
    assert len(shown) == 4


def test_its_program_runs(files: Path) -> None:
    (program,) = (block for block in PAGE.blocks if block.language == "python")
    done = subprocess.run(
        [sys.executable, "-c", program.text],
        cwd=files,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_it_names_every_field() -> None:
    from roster.orchestrator.runs import cardtest, mockfile

    named = set(re.findall(r"`([a-z~_]+)`", PAGE.text))
    mocks = {*mockfile.FIELDS, *mockfile._ANSWER, *mockfile._ERROR, *mockfile._SAID}
    tests = {*cardtest._FILE, *cardtest._CASE, *cardtest._EXPECT, *cardtest._ERROR, *cardtest._CALL}
    assert mocks | tests <= named, (mocks | tests) - named
