"""The pytest plugin: asked for by name, its fixtures work under either mode of pytest-asyncio."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_CONFTEST = 'pytest_plugins = ["roster.testing.pytest_plugin"]\n'
_TESTS = """
import pytest
from roster.testing import SyncTeam, Team

{mark}
async def test_async(team: Team) -> None:
    await team.add("echo", lambda text: text)
    assert await team.call("echo", {{"text": "x"}}) == "x"

def test_sync(sync_team: SyncTeam) -> None:
    sync_team.add("echo", lambda text: text)
    assert sync_team.call("echo", {{"text": "x"}}) == "x"
"""


@pytest.mark.parametrize(("mode", "mark"), [("auto", ""), ("strict", "@pytest.mark.asyncio")])
def test_the_fixtures_work_in_a_project_of_its_own(tmp_path: Path, mode: str, mark: str) -> None:
    (tmp_path / "conftest.py").write_text(_CONFTEST)
    (tmp_path / "test_it.py").write_text(_TESTS.format(mark=mark))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "-o", f"asyncio_mode={mode}",
         "-o", "asyncio_default_fixture_loop_scope=function", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )  # fmt: skip
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_roster_testing_needs_no_pytest() -> None:
    code = "import sys, roster.testing; sys.exit('pytest' in sys.modules or 'pytest_asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0
