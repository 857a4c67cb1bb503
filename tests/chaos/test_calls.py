"""What the fault runs count: answers, also those of a caller in another process, and effects after a fault."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from chaos.caller import Note, outcome_of
from chaos.ledger import Effects, LedgerWriter
from chaos.leftovers import in_queues
from chaos.load import Outcome
from chaos.report import Options, Report, Scenario
from chaos.scenarios.broker import first_answer, open_at
from chaos.scenarios.standing import after_waking

from chaos import __main__ as command_line
from chaos import scenarios
from roster import CallAnswer, CallError, Code
from roster.errors import Attempt

LOST = Attempt("chaos/a1", 0.0, 0.1, error="gone", code=Code.UNAVAILABLE, outcome="unknown")


def answer(node: str, *before: Attempt) -> CallAnswer:
    return CallAnswer(None, node, (*before, Attempt(node, 0.2, 0.1)), 0.3)


def some() -> Outcome:
    """One answered, one rerouted, one failed, one open."""
    outcome = Outcome()
    for number in range(4):
        outcome.called(f"c{number}", 10.0 + number)
    outcome.answered("c0", answer("chaos/a1"), 0.3)
    outcome.answered("c1", answer("chaos/a2", LOST), 0.5)
    outcome.failed("c2", CallError("no", code=Code.ABORTED, outcome="refused", attempts=[LOST]), 0.7)
    return outcome


def test_what_a_caller_in_another_process_noted_is_read_back(tmp_path: Path) -> None:
    note, told = Note(LedgerWriter(tmp_path / "calls")), some()
    for command, began in told.began.items():
        note.called(command, began)
    for command, result in told.answers.items():
        note.answered(command, result, told.taken[command])
    for command, error in told.errors.items():
        note.failed(command, error, told.taken[command])
    lines = (tmp_path / "calls").read_text().splitlines()
    read = outcome_of(json.loads(line) for line in lines)
    assert (read.began, read.taken, read.answers) == (told.began, told.taken, told.answers)
    assert (read.latencies, read.rerouted, read.gaps) == (told.latencies, told.rerouted, told.gaps)
    (error,) = read.errors.values()
    assert (error.summary, error.code, error.outcome, error.attempts) == (
        "no",
        Code.ABORTED,
        "refused",
        (LOST,),
    )


def test_what_is_called_and_not_answered_is_lost_and_what_is_answered_twice_is_seen() -> None:
    outcome = some()
    assert (outcome.lost, outcome.twice, outcome.slowest) == (2, 0, 0.5)
    outcome.answered("c0", answer("chaos/a2"), 0.4)
    assert outcome.twice == 1


def test_what_two_callers_heard_is_put_together() -> None:
    other = Outcome()
    other.called("d0", 5.0)
    other.answered("d0", answer("chaos/a1"), 2.0)
    both = some().merged(other)
    assert (len(both.began), len(both.answers), both.lost, both.slowest) == (5, 3, 2, 2.0)
    assert both.times == {"c0": 1, "c1": 1, "d0": 1}


def test_calls_that_were_out_at_a_moment_are_found() -> None:
    assert open_at(some(), 10.2) == {"c0"}
    assert open_at(some(), 12.5) == {"c2"}
    assert open_at(some(), 100.0) == {"c3"}, "it never ended"
    assert first_answer(some(), 10.4) == 11.5
    assert first_answer(some(), 11.6) == float("inf")


def test_a_woken_agent_that_acts_or_answers_for_what_another_has_is_seen(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    lines = [
        ("start", "c0", "chaos/a1", 1),  # before it was frozen
        ("start", "c1", "chaos/a1", 1),
        ("start", "c0", "chaos/a2", 2),
        ("end", "c0", "chaos/a2", 3),
        ("stopped", "c0", "chaos/a1", 9),
        ("end", "c1", "chaos/a1", 9),  # nobody else had it
        ("start", "c2", "chaos/a1", 9),  # new work
    ]
    text = '{{"what":"{}","command":"{}","node":"{}","at":{}}}\n'
    ledger.write_text("".join(text.format(*line) for line in lines))
    assert after_waking("chaos/a1", 8.0, Effects.read(ledger), Outcome()) == (set(), set())
    ledger.write_text(ledger.read_text() + text.format("end", "c0", "chaos/a1", 9))
    outcome = Outcome()
    outcome.called("c0", 0.5)
    outcome.answered("c0", answer("chaos/a1"), 8.6)
    assert after_waking("chaos/a1", 8.0, Effects.read(ledger), outcome) == ({"c0"}, {"c0"})


def test_queues_that_hold_something_are_found_and_dead_letters_are_none() -> None:
    listed = "agent.a1\t0\t0\nagent.a2\t3\t0\nagent.a3\t0\t1\nmindbus.dead\t7\t0\n"
    assert in_queues(listed) == {
        "agent.a2": "3 ready, 0 not acknowledged",
        "agent.a3": "0 ready, 1 not acknowledged",
    }


@pytest.mark.parametrize(
    ("arguments", "runs"), [([], ["a", "b"]), (["--bus", "amqp"], ["b"]), (["a"], ["a"])]
)
def test_with_a_bus_those_are_run_that_go_over_it(
    arguments: list[str], runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def scenario(name: str, of_bus: bool) -> Scenario:
        async def run(options: Options) -> Report:
            ran.append(name)
            return Report()

        return Scenario(name, run, 5.0, of_bus)

    monkeypatch.setattr(scenarios, "ALL", {"a": scenario("a", False), "b": scenario("b", True)})
    monkeypatch.setattr(sys, "argv", ["chaos", *arguments])
    assert command_line.main() == 0
    assert ran == runs


def test_a_scenario_that_does_not_come_to_its_end_is_a_broken_promise_and_the_others_are_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fails(options: Options) -> Report:
        raise TimeoutError("no agent came up")

    async def keeps(options: Options) -> Report:
        report = Report()
        report.promise("it is kept", True)
        return report

    table = {"a": Scenario("it fails", fails, 5.0), "b": Scenario("it keeps", keeps, 5.0)}
    monkeypatch.setattr(scenarios, "ALL", table)
    monkeypatch.setattr(sys, "argv", ["chaos"])
    assert command_line.main() == 1
    said = capsys.readouterr().out
    assert "BROKEN it comes to its end (TimeoutError: no agent came up)" in said
    assert "kept   it is kept" in said
    assert "1 promises broken" in said


def test_an_agent_is_frozen_for_a_bounded_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["chaos", "--frozen", "3"])
    with pytest.raises(SystemExit):
        command_line.main()
