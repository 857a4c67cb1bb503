"""Runs of process cards from the command line: begun, looked at, answered, cancelled, left and taken up."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Result, editor, roster, writer

from roster._loops import LoopThread

DEADLINE = 60.0
ARTICLE = """\
name: article
steps:
  - {id: write, action: write_article, params: {topic: "${input.topic}"}, output: draft}
  - {id: edit, action: edit_text, params: {text: "${draft.article}"}, output: edited}
  - {type: complete, result: "${edited.edited_text}"}
"""
ASKING = """\
name: asking
steps:
  - {id: review, type: human_checkpoint, message: "Is \\e[31m${input.title} good?", timeout: 1h, output: said}
  - {type: complete, result: "${said}"}
"""
LISTENING = """\
name: listening
steps:
  - {id: printed, type: wait, event: printed, output: data}
  - {type: complete, result: "${data}"}
"""
RISKY = """\
name: risky
steps:
  - {id: risky, action: write_article, params: {topic: trouble}, retry: {on_failure: escalate}}
  - {type: complete, result: on we go}
"""


class Place:
    """A directory with cards, a registry, a bus and a database of runs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def card(self, text: str, name: str = "card.yaml") -> str:
        """Write a card; return its file."""
        (self.directory / name).write_text(text)
        return name

    def start(self, *args: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "roster", *args],
            stdout=subprocess.PIPE,
            stderr=options.pop("stderr", subprocess.PIPE),
            stdin=subprocess.DEVNULL,
            text=True,
            **options,
        )

    def until(self, run: str, *states: str) -> dict[str, Any]:
        """Wait until a run is in one of some states; return its record."""
        end = time.monotonic() + DEADLINE
        while True:
            found = roster("get", "run", run, "-o", "json")
            if found.status == 0 and found.json["state"] in states:
                record: dict[str, Any] = found.json
                return record
            assert time.monotonic() < end, found
            time.sleep(0.05)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in [name for name in os.environ if name.startswith(("ROSTER_", "ETCD_", "RABBITMQ_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ROSTER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path)


@pytest.fixture
def agents(place: Place) -> Iterator[None]:
    """A writer and an editor."""
    thread = LoopThread("agents").start()
    nodes = [writer("writer-001"), editor("editor-001")]
    for node in nodes:
        thread.run(node.start(), timeout=20)
    yield
    for node in nodes:
        thread.run(node.stop(grace=0.1), timeout=20)
    thread.stop()


@contextlib.contextmanager
def orchestrator(place: Place, *args: str) -> Iterator[subprocess.Popen[str]]:
    """An orchestrator that stays, ready."""
    process = place.start("orchestrate", *args)
    try:
        assert process.stderr is not None
        first = process.stderr.readline()
        assert first.startswith("ready"), first + process.stderr.read()
        yield process
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0, said
        assert said.endswith("SIGTERM: leaves; what runs is left to the next orchestrator\n")
    finally:
        if process.returncode is None:
            process.kill()
        process.wait()


# -- beginning, and its end -------------------------------------------------------------------------------------------


def test_a_card_is_run_and_its_result_printed(place: Place, agents: None) -> None:
    card = place.card(ARTICLE)

    assert roster("run", card, "-i", "topic=bees", "--id", "first") == Result(0, "All about bees\n", "")
    again = roster("run", card, "-i", "topic=bees", "--id", "first", "-o", "json")
    assert again.json["result"] == "All about bees"
    assert [step["node"] for step in again.json["steps"]] == [
        "ai-team/writer-001",
        "default/editor-001",
        None,
    ]
    other = roster("run", card, "-i", "topic=ants", "--id", "first")
    assert other.status == 11
    assert other.err.startswith("error: another run has the id first")
    told = roster("run", card, "--inputs", '{"topic": "x"}', "-i", 'topic:="tides"', "-v")
    assert told.out == "All about tides\n"
    assert " write#1 succeeded on ai-team/writer-001 in " in told.err


@pytest.mark.parametrize(
    ("card", "args", "status", "said"),
    [
        ("{id: a, action: paint}", ["--no-nodes", "fail"], 7, "at the step a: no registered node has the capability"),
        ("{id: a, action: write_article, params: {topic: trouble}}", [], 6, "at the step a: RuntimeError: no ink "),
        ("{id: a, action: write_article, params: {theme: x}}", [], 9, "at the step a: params of write_article are wrong"),
        ("{id: a, action: write_article, params: {topic: waiting}, timeout: 300ms}", [], 10, "at the step a: "),
        ("{id: a, action: edit_text, params: {text: '${input.text}'}}", [], 1, "at the step a: params.text: input has"),
        ("{type: complete, status: failure, result: no}", [], 1, "the card ended with the status failure"),
        ("{type: complete, status: cancelled}", [], 12, ""),
    ],
)  # fmt: skip
def test_the_exit_status_says_how_it_ended(
    place: Place, agents: None, card: str, args: list[str], status: int, said: str
) -> None:
    done = roster("run", place.card(f"name: card\nsteps: [{card}]"), "--id", "mine", *args)

    assert done.status == status
    # The agents live in this process, and may have logged something before.
    line = done.err.splitlines()[-1]
    assert line.startswith(f"error: the run mine of card {'was cancelled' if status == 12 else 'failed'}")
    assert said in line
    assert line.endswith("; see 'roster describe run mine'")


def test_a_card_with_faults_is_not_begun(place: Place) -> None:
    card = place.card(
        "steps:\n  - {action: a, next: nowhere}\n  - {action: b, timout: 5, retry: {delay: soon}}\n"
    )
    done = roster("run", card)

    assert done.status == 1
    assert [line.split(": ")[0] for line in done.err.splitlines()] == [
        "card.yaml:2:17",
        "card.yaml:3:36",
        "error",
    ]
    assert not (place.directory / "state").exists()


def test_a_verb_is_a_verb_and_a_card_of_that_name_has_a_path(place: Place) -> None:
    place.card("steps: [{type: complete, result: a card}]", "cancel")
    (place.directory / "mocks.yaml").write_text("mocks: {}")

    assert roster("run", "./cancel", "--mock", "mocks.yaml").out == "a card\n"
    assert (
        roster("run", "--no-color", "cancel", "nobody").err == "error: no run nobody: see 'roster get runs'\n"
    )
    assert roster("run", "--mock", "mocks.yaml", "cancel").out == "a card\n"


def test_a_terminal_is_shown_how_it_gets_on(place: Place, agents: None) -> None:
    master, slave = pty.openpty()
    process = place.start("run", place.card(ARTICLE), "-i", "topic=bees", stderr=slave)
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # what Linux says at the end of a terminal
        while part := os.read(master, 65536):
            shown += part
    os.close(master)
    out, _ = process.communicate(timeout=DEADLINE)

    assert (process.returncode, out) == (0, "All about bees\n")
    assert b"write" in shown
    assert b"ai-team/writer-001" in shown


# -- leaving, and taking up -------------------------------------------------------------------------------------------


def test_ctrl_c_leaves_the_run_to_the_next_orchestrator(place: Place) -> None:
    process = place.start("run", place.card(ASKING), "-i", "title=it", "--id", "asked")
    place.until("asked", "waiting")
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out) == (130, "")
    assert "the run asked is not ended by this" in said
    assert "to end it: roster run cancel asked" in said

    with orchestrator(place):
        assert roster("run", "approve", "asked", "--comment", "fine", "--data", '{"grade": 1}').status == 0
        record = place.until("asked", "succeeded")
    assert record["result"]["comment"] == "fine"
    assert record["result"]["grade"] == 1


def test_what_is_left_is_taken_up(place: Place, agents: None) -> None:
    card = place.card(ARTICLE)
    begun = roster("run", card, "-i", "topic=bees", "--detach")
    run = begun.out.strip()
    assert run.startswith("article-")
    late = roster("run", card, "-i", "topic=bees", "--id", run, "--detach", "-o", "json").json
    assert (late["state"], late["executor"]) == ("pending", None)

    passport = (
        "apiVersion: ai-team.dev/v1\nkind: NodePassport\nmetadata: {name: desk}\nspec: {type: orchestrator}\n"
    )
    (place.directory / "desk.yaml").write_text(passport)
    with orchestrator(place, "--passport", "desk.yaml"):
        assert place.until(run, "succeeded")["result"] == "All about bees"
        assert roster("get", "node", "desk", "-o", "json").json["spec"]["type"] == "orchestrator"
    (place.directory / "agent.yaml").write_text(passport.replace("orchestrator", "agent"))
    wrong = roster("orchestrate", "--passport", "agent.yaml")
    assert (wrong.status, wrong.err) == (1, "error: agent.yaml: spec.type is agent: write orchestrator\n")


def test_who_looks_on_no_longer_does_not_end_it(place: Place) -> None:
    done = roster("run", place.card(LISTENING), "--id", "slow", "--timeout", "1s")
    assert done.status == 10
    assert "the run slow has not ended within 1 s" in done.err
    assert roster("get", "run", "slow", "-o", "json").json["state"] in ("waiting", "running")


# -- saying something, and looking ------------------------------------------------------------------------------------


def test_runs_are_answered_and_looked_at(place: Place, agents: None) -> None:
    asking, listening, risky = (
        place.card(text, f"{number}.yaml") for number, text in enumerate((ASKING, LISTENING, RISKY))
    )
    for card, run in [(asking, "a1"), (asking, "a2"), (listening, "l1"), (listening, "l2"), (risky, "r1")]:
        assert roster("run", card, "-i", "title=it", "--id", run, "--detach").out == f"{run}\n"
    with orchestrator(place, "--at-once", "5"):
        for run in ("a1", "a2", "l1", "l2", "r1"):
            place.until(run, "waiting")

        rows = roster("get", "runs", "--state", "waiting").rows
        assert {row[0]: row[1:3] for row in rows}["l1"] == ["listening", "waiting"]
        assert roster("get", "runs", "--card", "asking", "-o", "name").out == "run/a2\nrun/a1\n"
        assert roster("get", "runs", "--limit", "1", "--before", "l1", "-o", "name").out == "run/a2\n"
        assert len(roster("get", "runs", "-o", "json").json["items"]) == 5
        described = roster("describe", "run/a1").out
        assert "\x1b" not in described
        assert "Is \\x1b[31mit good?" in described
        assert "roster run approve a1" in described

        assert roster("run", "approve", "r1", "--step", "other").status == 11
        assert roster("run", "skip", "r1") == Result(0, "run/r1 goes on\n", "")
        assert roster("run", "reject", "run/a1", "--comment", "dull").out == "run/a1 rejected\n"
        assert roster("pause", "card/listening").out == "card/listening paused (2 runs of it now)\n"
        assert roster("run", "signal", "l1", "printed", "-d", "pages:=12", "-d", "by=ada").status == 0
        assert roster("run", "cancel", "l2", "--reason", "enough") == Result(0, "run/l2 cancelled\n", "")
        assert place.until("r1", "succeeded")["result"] == "on we go"
        assert place.until("a1", "failed")["error"]["message"].endswith("dull")
        assert roster("resume", "card/listening").out == "card/listening goes on\n"
        assert place.until("l1", "succeeded")["result"] == {"pages": 12, "by": "ada"}
        assert place.until("l2", "cancelled")["error"]["message"] == "enough"
        assert roster("run", "pause", "a2").out == "run/a2 paused\n"
        assert roster("run", "resume", "a2").out == "run/a2 goes on\n"
        assert roster("run", "approve", "a2").out == "run/a2 approved\n"
        place.until("a2", "succeeded")

    failed = roster("describe", "run", "r1").out
    assert "risky   action write_article   succeeded" in failed or "no ink \\x1b[31m left" in failed
    for command in (["approve", "l2"], ["cancel", "l2"], ["signal", "l2", "x"], ["pause", "l2"]):
        assert roster("run", *command).status == 11
    for command in (
        ["run", "approve", "x"],
        ["run", "resume", "x"],
        ["get", "run", "x"],
        ["describe", "run", "x"],
    ):
        assert roster(*command).status == 5
    assert roster("run", "prune", "--older-than", "1d").out == "0 runs removed\n"
    assert roster("run", "prune", "--older-than", "0").out == "5 runs removed\n"
    assert roster("get", "runs").err == "no runs: begin one with 'roster run CARD'\n"


def test_names_of_runs_and_cards_are_completed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def tab(line: str) -> list[str]:
        monkeypatch.setenv("_ROSTER_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
        return roster().out.split()

    card = place.card(LISTENING)
    assert roster("run", card, "--id", "l1", "--detach").status == 0
    assert tab("roster run ca") == ["cancel", "card.yaml"]
    assert tab("roster run --det") == ["--detach"]
    assert tab("roster run card.yaml --det") == ["--detach"]
    assert tab("roster run cancel ") == ["l1"]
    assert tab("roster describe run ") == ["l1"]
    assert tab("roster get runs --card ") == ["listening"]
    assert tab("roster pause ") == ["card/listening", "run/l1"]


# -- plans, mocks, tests ----------------------------------------------------------------------------------------------


def test_a_plan_says_who_would_do_each_step(place: Place, agents: None) -> None:
    card = place.card(
        "name: plan\nsteps:\n"
        '  - {id: write, action: write_article, params: {topic: "${input.topic}"}, selector: role=writer, output: draft}\n'
        "  - id: both\n    type: parallel\n    branches:\n"
        "      - {id: edit, action: edit_text, params: {text: '${draft}'}}\n      - {id: nap, type: wait, duration: 20m}\n"
    )
    done = roster("run", card, "-i", "topic=bees", "--dry-run")
    assert done.status == 0
    assert [" ".join(line.split()) for line in done.out.splitlines()[1:]] == [
        'write action write_article -l role=writer {"topic": "bees"} ai-team/writer-001 0',
        "both parallel 2 of 2 branches, 2 at once <none> <none>",
        'edit action edit_text {"text": "..."} default/editor-001 0',
        "nap wait 20m <none> <none>",
    ]
    nobody = roster("run", place.card("steps: [{id: a, action: paint}]"), "--dry-run", "-o", "json")
    assert nobody.status == 7
    assert nobody.json["ok"] is False
    assert "no registered node has the capability 'paint'" in nobody.json["steps"][0]["problem"]
    assert "nobody can do 1 of 1 steps" in nobody.err
    assert not (place.directory / "state" / "runs.sqlite").exists()


def test_a_card_is_run_with_mocks(place: Place) -> None:
    card = place.card(ARTICLE)
    (place.directory / "mocks.yaml").write_text(
        'mocks:\n  write_article: {result: {article: "${params.topic}"}}\n  edit_text: {error: {message: "no \\e[1m"}}\n'
    )
    done = roster("run", card, "-i", "topic=bees", "--mock", "mocks.yaml", "--id", "m", "-v")
    assert done.status == 6
    assert done.out == ""
    assert "m write#1 succeeded on mock" in done.err
    assert "\x1b" not in done.err
    record = roster("run", card, "-i", "topic=bees", "--mock", "mocks.yaml", "-o", "json").json
    assert (record["state"], record["error"]["step"]) == ("failed", "edit")
    (place.directory / "mocks.yaml").write_text("mocks: {}")
    lacking = roster("run", card, "-i", "topic=bees", "--mock", "mocks.yaml")
    assert (lacking.status, lacking.out) == (1, "")
    assert "mocks.yaml: no mock for the action write_article (step write)" in lacking.err
    assert not (place.directory / "state").exists()


def test_test_files_of_cards_are_run(place: Place) -> None:
    place.card(ARTICLE)
    file = place.directory / "article_test.yaml"
    file.write_text(
        "card: card.yaml\ninputs: {topic: bees}\n"
        'mocks: {write_article: {result: {article: "${params.topic}"}}, edit_text: {result: {edited_text: ok}}}\n'
        "cases:\n  - {name: good, expect: {result: ok}}\n  - name: bad\n    expect:\n      status: failure\n"
    )
    done = roster("card", "test", "article_test.yaml")
    assert done.status == 1
    assert done.out == (
        "ok    article_test.yaml: good\nFAIL  article_test.yaml: bad\n"
        "        article_test.yaml:8: status: expected failure, found success\n"
    )
    assert done.err == "error: 1 of 2 cases failed\n"
    assert roster("card", "test", ".", "-k", "GOOD").status == 1  # the card itself is no test file
    assert roster("card", "test", "article_test.yaml", "-k", "GOOD") == Result(
        0, "ok    article_test.yaml: good\n1 case ok\n", ""
    )
    data = roster("card", "test", "article_test.yaml", "-o", "json")
    assert data.status == 1
    assert [case["ok"] for case in json.loads(data.out)["cases"]] == [True, False]
    assert (
        roster("card", "test", "article_test.yaml", "-k", "nothing").err
        == "error: no case has 'nothing' in its name\n"
    )
    file.write_text(file.read_text().replace("expect", "expct"))
    wrong = roster("card", "test", "article_test.yaml")
    assert wrong.status == 1
    assert 'article_test.yaml:7:5: cases[1].expct: unknown field, did you mean "expect"?' in wrong.err


# -- doctor -----------------------------------------------------------------------------------------------------------


def test_the_doctor_looks_at_runs(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def findings() -> list[dict[str, str]]:
        return [one for one in roster("doctor", "-o", "json").json["findings"] if one["area"] == "runs"]

    (before,) = findings()
    assert before["what"].endswith("no run has been begun")
    assert not (place.directory / "state" / "runs.sqlite").exists()
    assert roster("run", place.card(LISTENING), "--id", "l1", "--detach").status == 0
    found = findings()
    assert [one["level"] for one in found[:2]] == ["OK", "WARN"]
    assert "1 pending" in found[0]["what"]
    assert "roster orchestrate" in found[1]["remedy"]
    monkeypatch.setenv("ROSTER_RUNS", "mysql://x")
    (wrong,) = findings()
    assert (wrong["level"], wrong["what"][:11]) == ("FAIL", "ROSTER_RUNS")
