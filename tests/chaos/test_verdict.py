"""The judge of the fault runs: it sees what was missed, heard twice, or heard in the wrong order."""

from __future__ import annotations

from typing import Any

from chaos.verdict import every_change, last_states, of_informer

from roster.store import Entry

Line = dict[str, Any]
K1, K2 = "/ai-team/status/chaos/a", "/ai-team/status/chaos/b"


def ack(revision: int, key: str, at: float = 0.0) -> Line:
    return {
        "what": "ack",
        "revision": revision,
        "puts": [key],
        "deletes": [],
        "reported": [["u", revision]],
        "at": at,
    }


def seen(revision: int, key: str, *, gone: bool = False) -> Line:
    return {"what": "seen", "revision": revision, "key": key, "gone": gone}


def event(revision: int, state: str = "ready") -> Line:
    return {
        "what": "event",
        "type": state,
        "name": "a",
        "uid": "u",
        "seq": revision,
        "state": state,
        "revision": revision,
    }


def test_every_change_once_and_in_order_is_clean() -> None:
    assert every_change([ack(2, K1), ack(3, K2)], [seen(2, K1), seen(3, K2)]).clean


def test_a_change_that_is_missing_twice_or_late_is_seen() -> None:
    verdict = every_change([ack(2, K1), ack(3, K2), ack(4, K1)], [seen(3, K2), seen(2, K1), seen(2, K1)])
    assert verdict.missed == [(4, K1)]
    assert verdict.twice == [(2, K1)]
    assert verdict.disordered == [(2, K1)]


def test_last_states_may_merge_and_must_be_those_of_the_store() -> None:
    truth = [Entry(K1, b"", 2, 5), Entry(K2, b"", 3, 7)]
    assert last_states(truth, [seen(2, K1), seen(5, K1), seen(7, K2)]).clean
    assert last_states(truth, [seen(5, K1), seen(3, K2)]).missed == [K2]
    assert last_states(truth[:1], [seen(5, K1), seen(7, K2)]).missed == [K2]
    listed = {"what": "listing", "revision": 7, "keys": {K1: 5, K2: 7}}
    assert last_states(truth, [seen(2, K1), listed]).clean


def test_states_heard_twice_or_backwards_are_seen() -> None:
    truth = [Entry(K1, b"", 2, 5)]
    assert last_states(truth, [seen(5, K1), seen(5, K1)]).twice == [(5, K1)]
    assert last_states(truth, [seen(5, K1), seen(6, K2, gone=True)]).twice == [(6, K2)]
    assert last_states(truth, [seen(6, K1), seen(5, K1)]).disordered == [(5, K1)]


def test_an_informers_events_are_held_against_the_reports() -> None:
    lines = [ack(2, K1), ack(3, K1)]
    assert of_informer(lines, [event(2), event(3)], None).clean
    assert of_informer(lines, [event(3)], None).missed == [(2, "u", 2)]
    assert len(of_informer(lines, [event(2), event(3), event(3)], None).twice) == 1
    assert of_informer(lines, [event(3), event(2)], None).disordered == [("a", 2)]


def test_where_states_may_merge_only_lasting_ones_count() -> None:
    lines: list[Line] = [
        {"what": "try", "keys": [K1], "at": 0.0},
        ack(2, K1, at=0.1),
        {"what": "try", "keys": [K1], "at": 1.0},
        ack(3, K1, at=1.1),
    ]
    assert of_informer(lines, [event(3)], [(0.0, 10.0)]).clean
    assert of_informer(lines, [event(2)], [(0.0, 10.0)]).missed == [(3, "u", 3)]
    assert of_informer(lines, [], [(0.0, 2.0)]).expected == 0
