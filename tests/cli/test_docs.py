"""What docs/cli.md shows is what happens."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.cli.conftest import editor, writer

from roster import Message
from roster._loops import LoopThread
from roster.bus import open_bus
from roster.cli import main
from roster.cli.failures import EXIT_CODES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "cli.md"


CARD = """\
name: article
steps:
  - id: write
    action: write_article
    params: {topic: "${input.topic}"}
    output: draft
  - id: edit
    action: edit_text
    params: {text: "${draft.article}"}
    output: draft
"""
REPORT = """\
name: report
steps:
  - {id: write, action: write_article, params: {topic: "${input.topic}"}, selector: tier=b, output: draft}
  - {id: review, type: human_checkpoint, message: "Publish ${draft.article}?", timeout: 2d, when: "${input.review}"}
  - {id: edit, action: edit_text, params: {text: "${draft.article}"}, output: edited}
  - {type: complete, result: "${edited.edited_text}"}
"""
MOCKS = """\
mocks:
  write_article: {result: {article: "All about ${params.topic}"}}
  edit_text: {result: {edited_text: "${params.text}"}}
approvals: {review: approve}
"""
REPORT_TEST = """\
card: report.yaml
mocks: mocks.yaml
inputs: {topic: bees, review: true}
cases:
  - {name: it is published, expect: {result: All about bees}}
  - {name: a rejected one is not, approvals: {review: reject}, expect: {status: failure}}
"""
BAD_CARD = """\
name: bad
steps:
  - id: write
    action: write_articel
    params: {topic: "${input.topic}"}
    output: draft
  - id: good_enough
    condition: ${review.score} >= 8
    then: complete
    else: wirte
"""


@dataclass
class Shown:
    """One command of the page."""

    line: int
    command: str
    output: list[str] = field(default_factory=list)
    status: int = 0

    @property
    def interrupted(self) -> bool:
        return "^C" in self.output


def _shown() -> list[Shown]:
    out: list[Shown] = []
    inside = False
    for number, line in enumerate(PAGE.read_text().splitlines(), 1):
        if line.startswith("```"):
            inside = line == "```console"
        elif inside and line.startswith("$ "):
            out.append(Shown(number, line[2:]))
        elif inside and (found := re.fullmatch(r"\[(\d+)\]", line)):
            out[-1].status = int(found[1])
        elif inside:
            out[-1].output.append(line)
    return out


def _steady(line: str) -> str:
    """Return a line without what changes from run to run."""
    line = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", line)
    line = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UID", line)
    line = re.sub(r'"revision": \d+', '"revision": N', line)
    line = re.sub(r"\d+\.\d{3} s", "N s", line)
    line = re.sub(r"\b\d+\.\ds\b", "AGE", line)
    line = re.sub(r"\b(\d+[smhd])+\b", "AGE", line)
    line = re.sub(r"(sqlite|local):///\S*/", r"\1:///PLACE/", line)
    return " ".join(line.split())


def _same(expected: list[str], found: list[str]) -> bool:
    """Compare, where `...` stands for any lines."""
    pattern = "".join(
        "(?:.*\n)*?" if line == "..." else re.escape(_steady(line)) + "\n"
        for line in expected
        if line != "^C"
    )
    return re.fullmatch(pattern, "".join(_steady(line) + "\n" for line in found)) is not None


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with the page's files, and its team."""
    directory = tmp_path_factory.mktemp("docs")
    (directory / "passports").mkdir()
    shutil.copy(ROOT / "examples" / "passports" / "writer-001.yaml", directory / "passports")
    head = "apiVersion: ai-team.dev/v1\nkind: NodePassport\nmetadata:\n"
    (directory / "passports" / "bad.yaml").write_text(
        f"{head}  name: Writer_001\nspec:\n  type: agent\n  version: one\n"
    )
    (directory / "passports" / "odd.yaml").write_text(f"{head}  name: odd\nspec:\n  colour: red\n")
    (directory / "node_passport.yaml").write_text(
        f"{head}  name: sensor-001\nspec:\n  capabilities: [{{name: measure}}]\n"
    )
    (directory / "cards").mkdir()
    (directory / "cards" / "article.yaml").write_text(CARD)
    (directory / "cards" / "bad.yaml").write_text(BAD_CARD)
    (directory / "running").mkdir()
    (directory / "running" / "report.yaml").write_text(REPORT)
    (directory / "running" / "mocks.yaml").write_text(MOCKS)
    (directory / "running" / "report_test.yaml").write_text(REPORT_TEST)
    options = {"registry_url": f"sqlite://{directory}/registry.db", "bus_url": f"local://{directory}/bus"}
    nodes = [
        writer("writer-001", **options),
        writer(
            "writer-002", **options, document={"labels": {"role": "writer", "tier": "b"}, "version": "1.2.0"}
        ),
        editor("editor-001", **options),
    ]
    thread = LoopThread("docs").start()
    for node in nodes:
        thread.run(node.start(), timeout=10)
    thread.run(_bury(options["bus_url"]), timeout=10)
    yield directory
    for node in nodes:
        thread.run(node.stop(), timeout=10)
    thread.stop()


async def _bury(bus_url: str) -> None:
    """Leave two dead letters, as an orchestrator does."""
    nodes = "ai-team/writer-003, ai-team/writer-004, ai-team/writer-005"
    reason = (
        f"write_article may have started on 3 nodes, and each of them was gone before it answered ({nodes})"
    )
    async with open_bus(bus_url) as bus:
        for number, topic in enumerate(("bees", "ants"), 2):
            command = Message.command("write_article", {"topic": topic}, source="/ai-team/desk-001")
            command.id = f"5f1c9a7b2e3d4c6f8a10-{number}"
            await bus.bury(command, reason)


def _run_here(command: str) -> tuple[int, list[str]]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        status = main(shlex.split(command)[1:])
    return status, out.getvalue().splitlines()


def _run_in_a_shell(shown: Shown) -> tuple[int, list[str]]:
    command = f"{sys.executable} -m {shown.command}"
    process = subprocess.Popen(
        ["sh", "-c", f"exec {command}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        if not shown.interrupted:
            found = process.stdout.read().splitlines()
        else:
            before = shown.output.index("^C")
            found = [process.stdout.readline().rstrip("\n") for _ in range(before)]
            process.send_signal(signal.SIGINT)
            found += process.stdout.read().splitlines()
        return process.wait(20), found


def test_the_page_shows_what_happens(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # One test, from top to bottom: a command meets what those before it have done.
    monkeypatch.chdir(place)
    monkeypatch.setenv("ROSTER_REGISTRY", f"sqlite://{place}/registry.db")
    monkeypatch.setenv("ROSTER_BUS", f"local://{place}/bus")
    monkeypatch.setenv("ROSTER_RUNS", f"sqlite://{place}/runs.sqlite")
    monkeypatch.delenv("ROSTER_NAMESPACE", raising=False)
    wrong = []
    for shown in _shown():
        alone = shown.interrupted or " -- " in shown.command or "$PWD" in shown.command
        status, found = _run_in_a_shell(shown) if alone else _run_here(shown.command)
        if status != shown.status or not _same(shown.output, found):
            wrong.append("\n".join([f"{PAGE}:{shown.line}: $ {shown.command}", *found, f"[{status}]"]))

    assert not wrong, "\n\n".join(wrong)


def test_the_page_shows_every_command() -> None:
    from roster.cli.app import app

    named = {command.name for command in app.registered_commands}
    named |= {group.name for group in app.registered_groups}
    assert named - {shown.command.split()[1] for shown in _shown()} == {"demo"}


def test_the_page_lists_every_exit_status() -> None:
    rows = re.findall(r"^\| (\d+) \| ", PAGE.read_text(), re.MULTILINE)

    assert [int(row) for row in rows] == [code for code, _ in EXIT_CODES]


def test_the_comparison_can_fail() -> None:
    assert _same(["a 5s", "...", "z"], ["a  7s", "b", "z"])
    assert not _same(["a", "z"], ["a", "b", "z"])
    assert not _same(["a"], ["b"])
    assert os.path.exists(PAGE)
