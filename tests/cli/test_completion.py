"""Tab completes commands, options and names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import pytest
from tests.cli.conftest import Stage, roster
from tests.conftest import passport


def _tab(monkeypatch: pytest.MonkeyPatch, line: str) -> list[str]:
    """Complete the last word of a line, as bash asks for it."""
    words = line.split(" ")
    monkeypatch.setenv("_ROSTER_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    result = roster()
    monkeypatch.delenv("_ROSTER_COMPLETE")
    assert result.err == ""
    return result.out.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_printed_for_each_shell(shell: str) -> None:
    script = roster("completion", shell).out

    assert f"_ROSTER_COMPLETE=complete_{shell}" in script
    if path := shutil.which(shell):
        subprocess.run([path, "-n", "/dev/stdin"], input=script, text=True, check=True, timeout=10)


def test_bash_runs_it() -> None:
    script = roster("completion", "bash").out
    directory = os.path.dirname(sys.executable)
    asked = (
        f"{script}\nCOMP_WORDS=(roster va); COMP_CWORD=1; _roster_completion roster; echo ${{COMPREPLY[@]}}"
    )
    done = subprocess.run(
        ["bash", "-c", asked], capture_output=True, text=True, timeout=20,
        env={**os.environ, "PATH": f"{directory}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.stdout == "validate\n"


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("roster un", ["undrain"]),
        ("roster get ", ["nodes", "capabilities", "runs"]),
        ("roster get --sort", ["--sort-by"]),
        ("roster get nodes wr", ["writer-001", "writer-002"]),
        ("roster get nodes -n default ", ["editor-001"]),
        ("roster get nodes -o w", ["wide"]),
        ("roster get nodes -n ai", ["ai-team"]),
        ("roster describe capability w", ["write_article"]),
        ("roster find e", ["edit_text"]),
        ("roster call wri", ["write_article"]),
        ("roster drain ed", ["editor-001"]),
        ("roster control ", ["pause", "resume", "stop"]),
        ("roster dead ", ["list", "show", "retry", "drop"]),
        ("roster control stop -n ai-team wr", ["writer-001", "writer-002"]),
        ("roster completion f", ["fish"]),
    ],
)
def test_names_are_offered(
    team: object, monkeypatch: pytest.MonkeyPatch, line: str, offered: list[str]
) -> None:
    assert _tab(monkeypatch, line) == offered


def test_a_name_that_a_shell_would_run_is_not_offered(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(["$(reboot)", "`id`", "x;id", "'", "\x1b[0m", "fine"]):
        stage.put(passport(f"n{number}", name))

    assert _tab(monkeypatch, "roster find ") == ["fine"]


def test_a_registry_that_cannot_be_read_offers_nothing_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROSTER_REGISTRY", "nonsense://")
    began = time.monotonic()

    assert _tab(monkeypatch, "roster find ") == []
    assert time.monotonic() - began < 3
