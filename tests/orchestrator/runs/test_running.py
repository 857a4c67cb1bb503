"""What each kind of step does in a run, from the card to the record."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import eventually
from tests.orchestrator.runs.conftest import Stage, on_both_databases, staged, steps

from roster import Orchestrator
from roster.bus import Message
from roster.cards import ProcessCard
from roster.errors import ConfigError, DocumentError, RunConflictError, RunNotFoundError

Urls = tuple[str, str]

FOUNDING = """\
# Process Card
steps:
  - id: "step_write"
    action: "write_article"  # ← Capability name
    params:
      topic: ${input.topic}
"""


def the(value: Any) -> Any:
    """Return what is there."""
    assert value is not None
    return value


def ids(record: Any, state: str | None = None) -> list[str]:
    return [step.id for step in record.steps if state is None or step.state == state]


@on_both_databases
async def test_the_founding_card_runs_as_printed(stage: Stage, tmp_path: Path) -> None:
    card = tmp_path / "card.yaml"
    card.write_text(FOUNDING, "utf-8")
    record = await stage.orchestrator.run(card, {"topic": "bees"})
    assert (record.state, record.status) == ("succeeded", "success")
    assert record.result == {
        "article": "All about bees"
    }  # nothing was named, so it is what the last action brought
    (step,) = record.steps
    assert (step.id, step.state, step.node, step.action) == (
        "step_write",
        "succeeded",
        "default/actor-001",
        "write_article",
    )
    assert step.attempts[0]["outcome"] == "ok"
    assert step.dispatched_at is not None
    times = [record.created_at, record.started_at, step.dispatched_at, step.ended_at, record.ended_at]
    assert times == sorted(map(the, times))
    assert record.to_dict()["steps"][0]["key"] == "step_write#1"


async def test_what_a_step_brings_is_there_for_the_next_and_conditions_choose_the_way(stage: Stage) -> None:
    card = steps(
        {"id": "first", "action": "add", "params": {"number": "${input.n}"}, "output": "sum"},
        {"id": "big", "condition": "${sum} > 10", "then": "much", "else": "little"},
        {"id": "much", "type": "complete", "result": "much"},
        {"id": "little", "type": "complete", "status": "failure", "result": {"only": "${sum}"}},
    )
    assert (await stage.orchestrator.run(card, {"n": 10})).result == "much"
    record = await stage.orchestrator.run(card, {"n": 1})
    assert (record.state, record.result) == ("failed", {"only": 2})
    assert record.error is not None
    assert "status failure" in record.error["message"]
    assert ids(record) == ["first", "big", "little"]


async def test_a_loop_back_runs_until_its_condition_and_never_longer_than_it_may(stage: Stage) -> None:
    card = steps(
        {"id": "more", "action": "add", "params": {"number": "${n}"}, "output": "n"},
        {"id": "enough", "condition": "${n} >= ${input.until}", "then": "complete", "else": "more"},
        variables={"n": 0},
        max_visits=5,
    )
    record = await stage.orchestrator.run(card, {"until": 4})
    assert record.result == {"n": 4}
    assert [step.key for step in record.steps if step.id == "more"] == [f"more#{n}" for n in (1, 2, 3, 4)]
    record = await stage.orchestrator.run(card, {"until": 100})
    assert record.state == "failed"
    assert record.error is not None
    assert record.error["step"] == "more"
    assert "5 times" in record.error["message"]


async def test_a_step_whose_when_does_not_hold_is_skipped(stage: Stage) -> None:
    card = steps(
        {"id": "no", "when": "${input.yes}", "action": "echo", "params": {"value": 1}},
        {"id": "yes", "action": "echo", "params": {"value": 2}},
    )
    record = await stage.orchestrator.run(card, {"yes": False})
    assert ids(record, "skipped") == ["no"]
    assert stage.calls == [("echo", {"value": 2})]


# -- failing ------------------------------------------------------------------------------------------------------


async def test_a_failed_step_is_tried_again_as_often_as_it_says(stage: Stage) -> None:
    again = {"max_attempts": 3, "delay": "10ms", "backoff": "exponential"}
    card = steps({"id": "f", "action": "fail", "params": {"times": 2}, "retry": again, "output": "out"})
    record = await stage.orchestrator.run(card)
    assert record.result == {"out": "done at try 3"}
    assert [attempt["outcome"] == "ok" for attempt in record.steps[0].attempts] == [False, False, True]
    assert record.steps[0].redispatched == 2


@pytest.mark.parametrize(
    ("on_failure", "state", "done"),
    [("abort", "failed", []), ("continue", "succeeded", ["after"]), ("other", "succeeded", ["other"])],
)
async def test_what_follows_a_failure_is_what_the_card_says(
    stage: Stage, on_failure: str, state: str, done: list[str]
) -> None:
    card = steps(
        {"id": "f", "action": "fail", "retry": {"max_attempts": 2, "on_failure": on_failure}},
        {"id": "after", "action": "echo", "params": {"value": 1}, "next": "complete"},
        {"id": "other", "when": "${input.x}", "action": "echo", "params": {"value": 2}},
        variables={},
    )
    if on_failure != "other":
        card["steps"][2:] = []
    record = await stage.orchestrator.run(card, {"x": True})
    assert record.state == state
    assert stage.count("fail") == 2
    assert [one for one in ids(record, "succeeded") if one != "f"] == done
    if state == "failed":
        assert record.error is not None
        assert record.error["step"] == "f"
        assert record.error["type"] == "RemoteError"
        assert "fail fails" in record.error["message"]


async def test_an_escalation_waits_for_a_person_who_has_it_tried_again(stage: Stage) -> None:
    card = steps(
        {
            "id": "f",
            "action": "fail",
            "params": {"times": 1},
            "retry": {"on_failure": "escalate"},
            "output": "o",
        }
    )
    runs = stage.orchestrator.runs
    run = await runs.start(card)
    await stage.waits(run, "escalation")
    assert "fail fails" in the((await runs.get(run)).waiting)["message"]
    await runs.approve(run, by="ann")
    assert (await runs.wait(run, timeout=30)).result == {"o": "done at try 2"}


async def test_an_escalation_can_be_passed_over_or_ended(stage: Stage) -> None:
    card = steps(
        {"id": "f", "action": "fail", "retry": {"on_failure": "escalate"}},
        {"id": "g", "action": "echo", "params": {"value": 1}},
    )
    runs = stage.orchestrator.runs
    passed, ended = await runs.start(card), await runs.start(card)
    for run in (passed, ended):
        await stage.waits(run, "escalation")
    await runs.skip(passed)
    await runs.reject(ended, comment="no use")
    assert (await runs.wait(passed, timeout=30)).state == "succeeded"
    record = await runs.wait(ended, timeout=30)
    assert record.state == "failed"
    assert "fail fails" in the(record.error)["message"]


async def test_a_wrong_expression_fails_the_run_and_names_step_and_field(stage: Stage) -> None:
    card = steps(
        {"id": "a", "action": "echo", "params": {"value": {"x": 1}}, "output": "a"},
        {"id": "b", "action": "echo", "params": {"value": "${a.y}"}},
    )
    record = await stage.orchestrator.run(card)
    assert record.error == {
        "code": "INVALID_ARGUMENT",
        "type": "ExpressionError",
        "message": the(record.error)["message"],
        "step": "b",
        "field": "params.value",
    }
    assert 'a has no field "y"' in record.error["message"]
    assert ids(record, "failed") == ["b"]


# -- nobody can ---------------------------------------------------------------------------------------------------


async def test_nobody_can_fails_at_once_where_that_is_asked_for(stage: Stage) -> None:
    card = steps({"id": "a", "action": "fly", "params": {}})
    record = await stage.orchestrator.run(card, no_nodes="fail")
    assert record.error is not None
    assert (record.error["type"], record.error["code"], record.error["step"]) == (
        "NoCapableNodesError",
        "NOT_FOUND",
        "a",
    )


async def test_a_step_waits_for_a_node_that_can_up_to_its_timeout(memory_urls: Urls, runs_url: str) -> None:
    from tests.conftest import passport

    from roster import Node

    async with staged(memory_urls, runs_url) as stage:
        card = steps({"id": "a", "action": "fly", "timeout": "1m", "output": "o"})
        run = await stage.orchestrator.runs.start(card)
        await stage.waits(run, "node")
        bird = Node(passport("bird", "fly"), registry_url=memory_urls[0], bus_url=memory_urls[1])

        @bird.capability("fly")
        async def fly() -> str:
            return "high"

        async with bird:
            record = await stage.orchestrator.runs.wait(run, timeout=30)
        assert record.result == {"o": "high"}
        short = steps({"id": "a", "action": "swim", "timeout": "200ms"})
        record = await stage.orchestrator.run(short)
        assert record.error is not None
        assert record.error["type"] == "NoCapableNodesError"


# -- waiting ------------------------------------------------------------------------------------------------------


@on_both_databases
async def test_a_wait_takes_its_event_with_the_data_also_one_that_came_before(stage: Stage) -> None:
    card = steps(
        {"id": "h", "action": "hold"},
        {"id": "w", "type": "wait", "event": "printer_${input.n}", "output": "got"},
    )
    runs = stage.orchestrator.runs
    early, late = await runs.start(card, {"n": 1}), await runs.start(card, {"n": 2})
    await runs.signal(early, "printer_1", {"pages": 3})
    await runs.signal(early, "printer_2", "another's")
    await eventually(lambda: stage.gates.get("gate"))
    stage.gates["gate"].set()
    assert (await runs.wait(early, timeout=30)).result == {"got": {"pages": 3}}
    await stage.waits(late, "event")
    record = await runs.get(late)
    assert record.state == "waiting"
    assert record.waiting is not None
    assert (record.waiting["event"], record.waiting["step"]) == ("printer_2", "w#1")
    await runs.signal(late, "printer_2")
    assert (await runs.wait(late, timeout=30)).result == {"got": None}


async def test_an_event_that_does_not_come_leads_where_the_card_says(stage: Stage) -> None:
    card = steps(
        {"id": "w", "type": "wait", "event": "never", "timeout": "50ms", "on_timeout": "sorry"},
        {"id": "unreached", "action": "echo", "params": {"value": 1}, "next": "complete"},
        {"id": "sorry", "type": "complete", "result": "sorry"},
    )
    assert (await stage.orchestrator.run(card)).result == "sorry"
    card["steps"][0].pop("on_timeout")
    card["steps"].pop()
    record = await stage.orchestrator.run(card)
    assert record.error is not None
    assert record.error["code"] == "DEADLINE_EXCEEDED"


@on_both_databases
async def test_a_person_says_yes_or_no(stage: Stage) -> None:
    card = steps(
        {"id": "draft", "action": "echo", "params": {"value": "text"}, "output": "draft"},
        {"id": "ok", "type": "human_checkpoint", "message": "Is ${draft} good?", "output": "said"},
    )
    runs = stage.orchestrator.runs
    yes, no = await runs.start(card), await runs.start(card)
    for run in (yes, no):
        await stage.waits(run, "approval")
    assert the((await runs.get(yes)).waiting)["message"] == "Is text good?"
    await runs.approve(yes, by="ann", comment="fine", data={"grade": 1})
    await runs.reject(no, "ok", by="bob", comment="dull")
    record = await runs.wait(yes, timeout=30)
    assert record.result["said"] == {"grade": 1, "approved": True, "by": "ann", "comment": "fine"}
    record = await runs.wait(no, timeout=30)
    assert record.error is not None
    assert record.error["message"] == "rejected by bob: dull"
    with pytest.raises(RunConflictError, match="has ended"):
        await runs.approve(yes)


async def test_a_pause_of_the_card_is_waited_for(stage: Stage) -> None:
    record = await stage.orchestrator.run(steps({"id": "w", "type": "wait", "duration": "20ms"}))
    assert record.state == "succeeded"
    assert record.steps[0].state == "succeeded"


async def test_a_run_has_a_time_in_all(stage: Stage) -> None:
    card = steps(
        {"id": "w", "type": "wait", "event": "never", "timeout": "300ms"},
        {"id": "e", "action": "echo", "params": {"value": 1}},
        timeout="300ms",
    )
    record = await stage.orchestrator.run(card)
    assert record.error is not None
    assert record.error["code"] == "DEADLINE_EXCEEDED"
    assert not stage.calls


# -- beside each other --------------------------------------------------------------------------------------------


@on_both_databases
async def test_a_loop_over_items_brings_their_results_in_order(stage: Stage) -> None:
    card = steps(
        {
            "id": "each",
            "type": "foreach",
            "items": "${input.items}",
            "as": "one",
            "max_concurrency": 3,
            "do": [
                {
                    "id": "x",
                    "action": "add",
                    "params": {"number": "${one}", "more": "${one_index}"},
                    "output": "y",
                },
                {
                    "id": "z",
                    "when": "${y} > 12",
                    "action": "add",
                    "params": {"number": "${y}", "more": 100},
                    "output": "y",
                },
            ],
            "output": "all",
        }
    )
    record = await stage.orchestrator.run(card, {"items": [10, 11, 12, 13]})
    assert record.result == {"all": [10, 12, 114, 116]}
    assert {step.parent for step in record.steps if step.id == "x"} == {"each#1"}
    assert (await stage.orchestrator.run(card, {"items": []})).result == {"all": []}
    record = await stage.orchestrator.run(card, {"items": "abc"})
    assert record.error is not None
    assert record.error["field"] == "items"


async def test_branches_run_at_once_and_leave_what_they_set(stage: Stage) -> None:
    card = steps(
        {
            "id": "both",
            "type": "parallel",
            "branches": [
                {"id": "a", "action": "hold", "params": {"name": "a"}, "output": "x"},
                [{"id": "b", "action": "hold", "params": {"name": "b"}, "output": "y"}],
            ],
            "output": "results",
        }
    )
    runs = stage.orchestrator.runs
    run = await runs.start(card)
    await eventually(lambda: {"a", "b"} <= set(stage.gates), 30)  # both have begun
    for name in ("b", "a"):
        stage.gates[name].set()
    record = await runs.wait(run, timeout=30)
    assert record.result == {"x": "a", "y": "b", "results": ["a", "b"]}


@on_both_databases
async def test_the_first_of_several_is_enough_and_the_others_are_stopped(stage: Stage) -> None:
    card = steps(
        {
            "id": "race",
            "type": "parallel",
            "wait_for": "any",
            "branches": [
                {"id": "slow", "action": "hold", "params": {"name": "slow"}, "output": "x"},
                {"id": "fast", "action": "echo", "params": {"value": "fast"}, "output": "y"},
            ],
            "output": "results",
        }
    )
    record = await stage.orchestrator.run(card)
    assert record.result == {"y": "fast", "results": [None, "fast"]}
    assert ids(record, "cancelled") == ["slow"]


async def test_a_failed_branch_fails_the_run_when_it_is_needed(stage: Stage) -> None:
    branches = [
        {"id": "bad", "action": "fail"},
        {"id": "good", "action": "echo", "params": {"value": 1}, "output": "y"},
    ]
    card = steps({"id": "p", "type": "parallel", "branches": branches})
    record = await stage.orchestrator.run(card)
    assert record.error is not None
    assert record.error["step"] == "bad"
    card["steps"][0]["wait_for"] = 1
    assert (await stage.orchestrator.run(card)).result == {"y": 1}


async def test_complete_within_a_branch_ends_the_whole_run(stage: Stage) -> None:
    branches = [
        {"id": "slow", "action": "hold", "params": {"name": "slow"}},
        {"id": "end", "when": "${input.end}", "type": "complete", "result": "enough"},
    ]
    card = steps(
        {"id": "p", "type": "parallel", "branches": branches},
        {"id": "z", "action": "echo", "params": {"value": 1}},
    )
    record = await stage.orchestrator.run(card, {"end": True})
    assert record.result == "enough"
    assert stage.count("echo") == 0


@on_both_databases
async def test_a_card_runs_another_one_as_it_was_at_the_beginning(stage: Stage, tmp_path: Path) -> None:
    inner = tmp_path / "parts" / "inner.yaml"
    inner.parent.mkdir()
    inner.write_text(
        "name: inner\nsteps:\n- {id: h, action: hold, params: {name: inner}}\n"
        "- {id: e, action: echo, params: {value: '${input.v}'}, output: v}\n- {type: complete, result: {inner: '${v}'}}\n"
    )
    outer = tmp_path / "outer.yaml"
    outer.write_text(
        "name: outer\nsteps:\n- {id: sub, card: parts/inner.yaml, params: {v: '${input.v}'}, output: got}\n"
    )
    run = await stage.orchestrator.runs.start(outer, {"v": 7})
    inner.write_text("name: inner\nsteps: [{type: complete, result: changed}]\n")
    outer.unlink()
    await eventually(lambda: stage.gates.get("inner"))
    stage.gates["inner"].set()
    record = await stage.orchestrator.runs.wait(run, timeout=30)
    assert record.result == {"got": {"inner": 7}}
    assert "sub#1/1/e#1" in [step.key for step in record.steps]


# -- beginning, looking, ending -----------------------------------------------------------------------------------


async def test_a_wrong_card_is_refused_with_every_fault_before_anything_is_done(
    stage: Stage, tmp_path: Path
) -> None:
    card = tmp_path / "bad.yaml"
    card.write_text(
        "steps:\n- {id: a, action: echo, next: nowhere}\n- {id: b, action: echo, params: {v: '${x}'}}\n"
    )
    with pytest.raises(DocumentError) as caught:
        await stage.orchestrator.run(card)
    assert [fault.line for fault in caught.value.faults] == [2, 3]
    assert not await stage.orchestrator.runs.list()
    with pytest.raises(ConfigError, match="JSON"):
        await stage.orchestrator.run(steps({"action": "echo"}), {"x": object()})
    with pytest.raises(ConfigError, match="the id of a run"):
        await stage.orchestrator.run(steps({"action": "echo"}), run_id="../x")


@on_both_databases
async def test_the_same_id_is_the_same_run(stage: Stage) -> None:
    card = steps({"id": "a", "action": "echo", "params": {"value": "${input.v}"}, "output": "v"})
    first = await stage.orchestrator.run(card, {"v": 1}, run_id="mine")
    again = await stage.orchestrator.run(card, {"v": 1}, run_id="mine")
    assert again == first
    assert len(stage.calls) == 1
    with pytest.raises(RunConflictError, match="another run has the id mine"):
        await stage.orchestrator.run(card, {"v": 2}, run_id="mine")


@on_both_databases
async def test_runs_are_listed_youngest_first_by_state_and_card_and_in_pages(stage: Stage) -> None:
    runs = stage.orchestrator.runs
    good = steps({"id": "a", "action": "echo", "params": {"value": 1}})
    bad = {**steps({"id": "a", "action": "fail"}), "name": "bad"}
    names = [await runs.start(card) for card in (good, bad, good)]
    for run in names:
        await runs.wait(run, timeout=30)
    assert [record.id for record in await runs.list()] == names[::-1]
    assert [record.id for record in await runs.list(states=["failed"])] == [names[1]]
    assert [record.id for record in await runs.list(card="card")] == [names[2], names[0]]
    assert [record.id for record in await runs.list(limit=1, before=names[2])] == [names[1]]
    with pytest.raises(RunNotFoundError, match="no run none"):
        await runs.get("none")


@on_both_databases
async def test_a_cancelled_run_stops_what_is_done_for_it(stage: Stage) -> None:
    runs = stage.orchestrator.runs
    run = await runs.start(steps({"id": "h", "action": "hold"}))
    await eventually(lambda: stage.count("hold"))
    record = await runs.cancel(run, "not needed")
    assert (record.state, record.status) == ("cancelled", "cancelled")
    assert record.error is not None
    assert record.error["message"] == "not needed"
    assert (await runs.wait(run, timeout=30)).state == "cancelled"
    # The node is told to stop: it is idle again although nobody opened the gate.
    node = stage.orchestrator.node("default/actor-001")
    assert node is not None
    await eventually(lambda: the(stage.orchestrator.team.router.load("default/actor-001")).active == 0, 30)
    with pytest.raises(RunConflictError, match="cannot be cancelled: it is cancelled"):
        await runs.cancel(run)


@on_both_databases
async def test_runs_of_a_paused_card_stand_still_before_their_next_step(stage: Stage) -> None:
    runs = stage.orchestrator.runs
    card = steps({"id": "h", "action": "hold"}, {"id": "e", "action": "echo", "params": {"value": 1}})
    run = await runs.start(card)
    await eventually(lambda: stage.gates.get("gate"))
    assert await runs.pause_card("card") == 1
    await asyncio.wait_for(the(stage.orchestrator.runs._executor)._look(), 10)
    stage.gates["gate"].set()
    async with asyncio.timeout(30):
        async for record in runs.watch(run):
            if record.state == "paused":
                break
    assert stage.count("echo") == 0
    assert await runs.resume_card("card")
    assert (await runs.wait(run, timeout=30)).state == "succeeded"


async def test_events_tell_what_happens(stage: Stage) -> None:
    heard: list[tuple[str, Message]] = []
    subscription = await stage.orchestrator.bus.subscribe(
        ["evt.process.#"], lambda key, message: heard.append((key, message))
    )
    record = await stage.orchestrator.run(steps({"id": "a", "action": "echo", "params": {"value": 1}}))
    await eventually(lambda: len(heard) >= 4)
    await subscription.close()
    assert [key for key, _ in heard] == [
        "evt.process.run_started",
        "evt.process.step_started",
        "evt.process.step_succeeded",
        "evt.process.run_succeeded",
    ]
    assert heard[1][1].data["run"] == record.id
    assert heard[1][1].data["step"] == "a#1"


async def test_the_same_card_object_runs_as_often_as_one_likes(stage: Stage) -> None:
    card = ProcessCard.from_dict(
        steps({"id": "a", "action": "echo", "params": {"value": "${input.n}"}, "output": "n"})
    )
    records = await asyncio.gather(*(stage.orchestrator.run(card, {"n": n}) for n in range(20)))
    assert [record.result for record in records] == [{"n": n} for n in range(20)]


async def test_two_orchestrators_with_runs_in_one_process_are_refused(stage: Stage, runs_url: str) -> None:
    await stage.orchestrator.run(steps({"action": "echo", "params": {"value": 1}}))
    async with Orchestrator.connect(*stage.urls, runs_url=runs_url) as other:
        with pytest.raises(ConfigError, match="open in this process already"):
            await other.run(steps({"action": "echo", "params": {"value": 1}}))
        assert len(await other.runs.list()) == 1  # looking is free
