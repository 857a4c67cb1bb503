"""What the script of faults says about a peer: which fault a call belongs to, what it cost, and the picture of it."""

from __future__ import annotations

from math import inf
from pathlib import Path
from xml.etree import ElementTree

from chaos.course import Call, Course, Fault, Toll, calls_of
from chaos.drawing import draw


def course(*calls: Call, twice: tuple[str, ...] = ()) -> Course:
    """Thirty calm calls of 20 ms, a fault of each of two kinds, and what else there is."""
    calm = [Call(f"calm-{number}", 1.0 + number / 10, 0.02, "answered") for number in range(30)]
    faults = [Fault("kill", 10.0, 11.0), Fault("kill", 12.0, 13.0), Fault("freeze", 20.0, 25.0)]
    return Course(
        "peer", sorted([*calm, *calls], key=lambda call: call.began), faults, set(twice), timeout=30.0
    )


def test_a_peer_that_faults_do_not_touch_has_nothing_to_pay() -> None:
    tolls = course(Call("a", 10.5, 0.03, "answered"), Call("b", 21.0, 0.03, "answered")).tolls()
    assert tolls == {"kill": Toll(2, 1, 0, 0, 0, 0.03, 0.0), "freeze": Toll(1, 1, 0, 0, 0, 0.03, 0.0)}


def test_what_was_in_hand_when_the_fault_came_belongs_to_it() -> None:
    tolls = course(
        Call("in hand", 11.9, 1.0, "answered"),
        Call("slow", 14.0, 0.5, "answered"),
        Call("told", 19.9, 0.1, "failed"),
        Call("never", 22.0, inf, "lost"),
        twice=("slow", "calm-1"),
    ).tolls()
    # The first ends 0.9 s after the second kill, the other 2.5 s after it.
    assert tolls["kill"] == Toll(2, 2, 0, 0, 1, 1.0, 2.5)
    assert tolls["freeze"] == Toll(1, 2, 1, 1, 0, inf, 32.0)


def test_without_a_normal_time_nothing_is_slow_by_comparison() -> None:
    alone = Course("peer", [Call("a", 10.5, 5.0, "answered")], [Fault("kill", 10.0, 11.0)])
    assert alone.normal(0.99) == inf
    assert alone.tolls()["kill"].recovery == 0.0


def test_notes_of_a_caller_are_read_as_its_calls() -> None:
    lines = [
        {"what": "called", "command": "a", "began": 101.0, "at": 101.0},
        {"what": "called", "command": "b", "began": 102.0, "at": 102.0},
        {"what": "called", "command": "c", "began": 103.0, "at": 103.0},
        {"what": "called", "command": "d", "began": 104.0, "at": 104.0},
        {"what": "answered", "command": "a", "node": "a1", "taken": 0.5, "at": 101.5},
        {"what": "failed", "command": "b", "text": "no", "taken": 1.0, "at": 103.0},
        {"what": "failed", "command": "c", "text": "TimeoutError", "taken": 29.9, "at": 132.9},
    ]
    calls = calls_of(lines, 100.0, 30.0, died=False)
    assert [(call.command, call.outcome, round(call.began, 6)) for call in calls] == [
        ("a", "answered", 1.0),
        ("b", "failed", 2.0),
        ("c", "lost", 3.0),
        ("d", "lost", 4.0),
    ]
    assert calls[3].taken == inf
    assert [call.command for call in calls_of(lines, 100.0, 30.0, died=True)] == ["a", "b", "c"]


def test_the_picture_has_a_row_for_each_peer_and_is_the_same_again(tmp_path: Path) -> None:
    courses = [course(Call("a", 10.5, 2.0, "answered"), Call("b", 21.0, inf, "lost"))]
    courses.append(Course("<other> & more", courses[0].calls, courses[0].faults))
    draw(courses, tmp_path / "one.svg")
    draw(courses, tmp_path / "two.svg")
    first = (tmp_path / "one.svg").read_text()
    assert first == (tmp_path / "two.svg").read_text()
    texts = {element.text for element in ElementTree.fromstring(first).iter() if element.tag.endswith("text")}
    assert {"peer", "<other> & more", "kill", "freeze", "calls without an answer"} <= texts
