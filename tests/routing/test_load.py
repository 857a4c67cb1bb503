"""The count of load: what is mine is exact, what is others' is from the newest report, and no float ties wrong."""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.routing.nodes import WRITE, FakeNode

from roster.routing import Load, Router
from roster.routing.load import LIMIT, rank_of

counts = st.one_of(st.integers(0, 20), st.integers(0, 2 * LIMIT), st.integers(LIMIT - 50, LIMIT))
capacities = st.one_of(st.integers(1, 20), st.integers(1, LIMIT), st.integers(LIMIT - 50, LIMIT))


@given(counts, capacities, counts, capacities)
def test_loads_compare_as_fractions_do(a: int, b: int, c: int, d: int) -> None:
    ranks, fractions = (rank_of(a, b), rank_of(c, d)), (Fraction(a, b), Fraction(c, d))
    assert (ranks[0] > ranks[1]) == (fractions[0] < fractions[1])
    assert (ranks[0] == ranks[1]) == (fractions[0] == fractions[1])


@given(st.integers(LIMIT - 1000, LIMIT), st.integers(1, 900))
def test_neighbouring_fractions_of_large_counts_stay_apart(capacity: int, below: int) -> None:
    # Two fractions that differ by the least possible amount, 1 / (capacity * (capacity - below)) or close to it.
    assert rank_of(capacity - 1, capacity) < rank_of(capacity - below - 1, capacity - below)


def knows(**fields: Any) -> Router:
    router = Router()
    router.update(FakeNode("a", **fields))
    return router


def load(router: Router) -> Load:
    found = router.load("default/a")
    assert found is not None
    return found


def test_what_is_sent_counts_at_once_and_what_is_done_counts_no_more() -> None:
    router = knows(active_tasks=1)
    router.sent("default/a")
    router.sent("default/a")
    assert load(router) == Load(active=3, capacity=3, mine=2, others=1, seq=1)
    assert load(router).fraction == 1.0
    router.done("default/a", "ok")
    assert (load(router).active, load(router).mine) == (2, 1)


def test_done_without_sent_does_not_go_below_nothing() -> None:
    router = knows()
    router.done("default/a", "ok")
    assert load(router).mine == 0


def test_a_status_speaks_of_all_tasks_so_mine_are_taken_off() -> None:
    router = knows()
    router.sent("default/a")
    router.sent("default/a")
    router.update(FakeNode("a", active_tasks=3, seq=2))
    assert load(router) == Load(active=3, capacity=3, mine=2, others=1, seq=2)


def test_a_status_written_before_my_command_arrived_does_not_go_below_nothing() -> None:
    router = knows()
    router.sent("default/a")
    router.update(FakeNode("a", active_tasks=0, seq=2))
    assert load(router) == Load(active=1, capacity=3, mine=1, others=0, seq=2)


def test_an_answer_says_which_tasks_are_mine_so_others_is_exact() -> None:
    router = knows()
    for _ in range(3):
        router.sent("default/a")
    # The node saw one of the two that are still on their way.
    router.done("default/a", "ok", load=(4, 1, 8, 7))
    assert load(router) == Load(active=5, capacity=8, mine=2, others=3, seq=7)


@pytest.mark.parametrize("seq", [5, 6])
def test_an_older_status_never_overwrites_a_newer_answer(seq: int) -> None:
    router = knows()
    router.sent("default/a")
    router.done("default/a", "ok", load=(2, 0, 3, 6))
    router.update(FakeNode("a", active_tasks=0, seq=seq))
    assert load(router).others == 2
    router.update(FakeNode("a", active_tasks=0, seq=7))
    assert load(router).others == 0


def test_an_older_answer_never_overwrites_a_newer_status() -> None:
    router = knows(seq=9, active_tasks=1)
    router.sent("default/a")
    router.done("default/a", "ok", load=(3, 0, 9, 8))
    assert load(router) == Load(active=1, capacity=3, mine=0, others=1, seq=9)


def test_an_answer_knows_more_than_the_status_of_the_same_moment() -> None:
    router = knows()
    router.sent("default/a")
    router.sent("default/a")
    router.update(FakeNode("a", active_tasks=2, seq=4))
    assert load(router).others == 0
    router.done("default/a", "ok", load=(2, 0, 3, 4))
    assert load(router).others == 2


def test_a_node_without_a_counter_is_believed_each_time() -> None:
    router = knows(seq=0, active_tasks=2)
    router.update(FakeNode("a", seq=0, active_tasks=1, capacity=5))
    assert load(router) == Load(active=1, capacity=5, mine=0, others=1, seq=0)


def test_a_passport_that_changes_the_capacity_counts_though_the_status_is_the_same() -> None:
    router = knows(capacity=3)
    router.update(FakeNode("a", capacity=5))
    assert load(router).capacity == 5


@pytest.mark.parametrize(
    "report",
    [
        ("3", 0, 3, 5),
        (1.5, 0, 3, 5),
        (float("nan"), 0, 3, 5),
        (1, None, 3, 5),
        (1, 0, True, 5),
        (1, 0, 3, "9"),
    ],
)
def test_a_malformed_report_changes_nothing(report: Any) -> None:
    router = knows(active_tasks=1)
    before = load(router)
    router.full("default/a", report)
    assert load(router) == before


def test_hostile_numbers_are_brought_within_bounds() -> None:
    router = knows(active_tasks=-5, capacity=10**30)
    assert load(router) == Load(active=0, capacity=LIMIT, mine=0, others=0, seq=1)
    router.full("default/a", (10**30, -7, 10**30, 2))
    assert load(router) == Load(active=LIMIT, capacity=LIMIT, mine=0, others=LIMIT, seq=2)
    assert router.free(WRITE) == 0


def test_a_refusal_brings_the_true_load_and_ends_the_command() -> None:
    router = knows()
    router.sent("default/a")
    router.done("default/a", "refused", load=(3, 0, 3, 2))
    assert load(router) == Load(active=3, capacity=3, mine=0, others=3, seq=2)
    assert router.free(WRITE) == 0
    assert router.stats.refused == 1


def test_another_incarnation_starts_with_nothing_of_mine() -> None:
    router = knows(seq=50, active_tasks=2)
    router.sent("default/a", uid="u1")
    router.update(FakeNode("a", uid="u2", seq=1))
    assert load(router) == Load(active=0, capacity=3, mine=0, others=0, seq=1)


def test_what_ends_late_at_the_old_incarnation_is_not_taken_off_the_new_one() -> None:
    router = knows()
    router.sent("default/a", uid="u1")
    router.update(FakeNode("a", uid="u2"))
    router.sent("default/a", uid="u2")
    router.done("default/a", "ok", load=(0, 0, 9, 99), uid="u1")
    router.full("default/a", (3, 0, 3, 99), uid="u1")
    router.sent("default/a", uid="u1")
    assert load(router) == Load(active=1, capacity=3, mine=1, others=0, seq=1)


def test_an_unknown_node_has_no_load_and_is_no_error() -> None:
    router = Router()
    router.sent("default/ghost")
    router.done("default/ghost", "ok")
    router.full("default/ghost", (1, 0, 3, 1))
    router.suspect("default/ghost")
    router.trust("default/ghost")
    router.remove("default/ghost")
    assert router.load("default/ghost") is None
    assert len(router) == 0
