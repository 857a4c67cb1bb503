"""Nodes that keep failing are left out for a growing while, but never too many of them."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.routing.nodes import WRITE, FakeClock, FakeNode

from roster.errors import ConfigError, NoCapableNodesError
from roster.routing import EjectionPolicy, Outcome, Router

POLICY = EjectionPolicy(jitter=0.0)


class Team:
    """A router over n0, n1, ... with a clock."""

    def __init__(self, size: int, policy: EjectionPolicy | None = POLICY) -> None:
        self.clock = FakeClock()
        self.router = Router(now=self.clock, rng=random.Random(1), ejection=policy)
        for number in range(size):
            self.router.update(FakeNode(f"n{number}"))
        self.router.free(WRITE)

    def ends(self, name: str, outcome: Outcome, times: int = 1, **kwargs: Any) -> None:
        for _ in range(times):
            self.router.sent(f"default/{name}")
            self.router.done(f"default/{name}", outcome, **kwargs)

    def out(self) -> dict[str, float]:
        return {key.removeprefix("default/"): left for key, left in self.router.ejected().items()}

    def picked(self) -> set[str]:
        return {self.router.pick(WRITE).name for _ in range(200)}

    def reason(self, name: str) -> str:
        return next(row.reason for row in self.router.explain(WRITE) if row.node == f"default/{name}")


@pytest.mark.parametrize("outcome", ["failed", "timeout"])
def test_five_failures_in_a_row_eject(outcome: Outcome) -> None:
    team = Team(4)
    team.ends("n0", outcome, 4)
    assert team.out() == {}
    team.ends("n0", outcome)
    assert team.out() == {"n0": 10.0}
    assert team.picked() == {"n1", "n2", "n3"}
    assert team.reason("n0") == "ejected for 10 s after 5 failures"
    assert team.router.free(WRITE) == 9


@pytest.mark.parametrize("outcome", ["refused", "cancelled"])
def test_refusals_and_cancelled_work_say_nothing_about_health(outcome: Outcome) -> None:
    team = Team(4)
    team.ends("n0", outcome, 50)
    team.ends("n0", "failed", 4)
    team.ends("n0", outcome, 50)
    assert team.out() == {}
    team.ends("n0", "failed")
    assert set(team.out()) == {"n0"}


def test_a_success_between_breaks_the_row() -> None:
    team = Team(4)
    for _ in range(20):
        team.ends("n0", "ok", 4)
        team.ends("n0", "failed", 3)
    assert team.out() == {}


def test_half_of_a_minimum_volume_ejects_without_any_row() -> None:
    team = Team(4)
    for _ in range(4):
        team.ends("n0", "ok")
        team.ends("n0", "failed")
    assert team.out() == {}
    team.ends("n0", "ok")
    team.ends("n0", "failed")
    assert set(team.out()) == {"n0"}
    assert team.reason("n0") == "ejected for 10 s after 5 failures"


def test_the_rate_looks_at_the_last_results_alone() -> None:
    team = Team(4)
    for _ in range(10):
        team.ends("n0", "failed", 2)
        team.ends("n0", "ok", 10)
    team.ends("n0", "ok", 500)
    for _ in range(9):
        team.ends("n0", "failed")
        team.ends("n0", "ok")
    assert team.out() == {}
    team.ends("n0", "failed")
    assert set(team.out()) == {"n0"}


def test_nobody_is_blamed_while_the_caller_lags_or_says_so() -> None:
    team = Team(4)
    team.router.lagging = True
    team.ends("n0", "timeout", 20)
    team.router.lagging = False
    team.ends("n0", "failed", 20, blame=False)
    team.ends("n0", "failed", 4)
    assert team.out() == {}
    team.ends("n0", "failed")
    assert set(team.out()) == {"n0"}


def test_it_returns_on_trial_with_one_command_at_a_time_until_one_succeeds() -> None:
    team = Team(4)
    team.ends("n0", "failed", 5)
    team.clock.advance(9.9)
    assert "n0" not in team.picked()
    team.clock.advance(0.2)
    assert "n0" in team.picked()
    assert team.router.stats.returned == 1
    assert team.router.free(WRITE) == 10
    team.router.sent("default/n0")
    assert "n0" not in team.picked()
    assert team.reason("n0") == "on trial after an ejection: one task at a time"
    team.router.done("default/n0", "ok")
    assert team.router.free(WRITE) == 12


def test_the_first_failure_on_trial_ejects_again_for_twice_as_long_up_to_the_cap() -> None:
    team = Team(4)
    team.ends("n0", "failed", 5)
    lengths = []
    for _ in range(8):
        lengths.append(team.out()["n0"])
        team.clock.advance(lengths[-1])
        assert team.out() == {}
        team.ends("n0", "failed")
    assert lengths == [10, 20, 40, 80, 160, 300, 300, 300]
    assert team.reason("n0") == "ejected for 300 s after 1 failure"


def test_successes_shrink_the_next_ejection() -> None:
    team = Team(4)
    team.ends("n0", "failed", 5)
    for _ in range(2):
        team.clock.advance(100)
        assert team.out() == {}
        team.ends("n0", "failed")
    assert team.out() == {"n0": 40.0}
    team.clock.advance(100)
    assert team.out() == {}
    team.ends("n0", "ok", 20)
    team.ends("n0", "failed", 5)
    assert team.out() == {"n0": 20.0}


def test_only_successes_in_a_row_shrink_it() -> None:
    team = Team(4)
    team.ends("n0", "failed", 5)
    team.clock.advance(100)
    assert team.out() == {}
    for _ in range(5):
        team.ends("n0", "ok", 9)
        team.ends("n0", "failed")
    team.ends("n0", "failed", 4)
    assert team.out() == {"n0": 20.0}


def test_a_command_that_still_hangs_there_is_the_one_that_a_trial_allows() -> None:
    team = Team(4)
    team.router.sent("default/n0")
    team.ends("n0", "failed", 5)
    team.clock.advance(100)
    assert team.picked() == {"n1", "n2", "n3"}
    assert team.router.free(WRITE) == 9
    # A load of 1 in 3 is the least when the others have two tasks each.
    for name in ("n1", "n2", "n3"):
        team.router.sent(f"default/{name}")
        team.router.sent(f"default/{name}")
    assert team.picked() == {"n1", "n2", "n3"}
    team.router.done("default/n0", "cancelled")
    assert team.picked() == {"n0"}


def test_each_returns_at_its_own_time() -> None:
    team = Team(4)
    team.ends("n0", "failed", 5)
    team.clock.advance(4)
    team.ends("n1", "failed", 5)
    assert team.out() == {"n0": 6.0, "n1": 10.0}
    team.clock.advance(6)
    assert team.picked() == {"n0", "n2", "n3"}
    team.clock.advance(4)
    assert team.picked() == {"n0", "n1", "n2", "n3"}


def test_jitter_only_lengthens() -> None:
    lengths = set()
    for seed in range(20):
        router = Router(now=FakeClock(), rng=random.Random(seed), ejection=EjectionPolicy(jitter=0.5))
        for number in range(3):
            router.update(FakeNode(f"n{number}"))
        for _ in range(5):
            router.done("default/n0", "failed")
        lengths.add(router.ejected()["default/n0"])
    assert len(lengths) == 20
    assert all(10 <= length < 15 for length in lengths)


@pytest.mark.parametrize(("size", "most"), [(1, 1), (2, 1), (3, 1), (4, 2), (7, 3), (10, 5)])
def test_at_most_half_are_out_and_one_always_may_be(size: int, most: int) -> None:
    team = Team(size)
    for number in range(size):
        team.ends(f"n{number}", "failed", 10)
    assert len(team.out()) == most
    assert team.router.stats.ejected == most
    assert team.router.stats.ejections_held > 0 or size == most
    expected = {f"n{number}" for number in range(size)} - set(team.out())
    assert team.picked() == (expected or {"n0"})


def test_the_bound_holds_in_each_pool_that_the_node_is_in() -> None:
    team = Team(6)
    for name in ("n0", "n1"):
        team.router.update(FakeNode(name, labels={"gpu": "yes"}))
    team.router.pick(WRITE, selector="gpu=yes")
    team.ends("n0", "failed", 5)
    team.ends("n1", "failed", 5)
    assert set(team.out()) == {"n0"}


def test_ejection_is_ignored_while_fewer_than_half_would_be_left() -> None:
    team = Team(4)
    team.ends("n0", "failed", 5)
    team.ends("n1", "failed", 5)
    assert team.picked() == {"n2", "n3"}
    team.router.remove("default/n3")
    assert team.picked() == {"n0", "n1", "n2"}
    assert team.reason("n0") == "candidate though ejected, or too few would be left: 0 of 3 tasks"
    team.router.update(FakeNode("n3"))
    assert team.picked() == {"n2", "n3"}


def test_a_pool_asked_for_later_knows_who_is_out() -> None:
    team = Team(4)
    team.ends("n0", "failed", 5)
    assert {team.router.pick(WRITE, namespace="default").name for _ in range(100)} == {"n1", "n2", "n3"}


def test_the_only_node_is_never_taken_away() -> None:
    team = Team(1)
    team.ends("n0", "failed", 50)
    assert team.router.pick(WRITE).name == "n0"
    assert team.router.free(WRITE) == 3


def test_an_ejected_node_is_not_asked_though_the_others_were_tried() -> None:
    team = Team(3)
    team.ends("n0", "failed", 5)
    with pytest.raises(NoCapableNodesError, match="default/n0: ejected for 10 s after 5 failures"):
        team.router.pick(WRITE, exclude={"default/n1", "default/n2"})


def test_another_incarnation_is_not_ejected() -> None:
    team = Team(4)
    team.ends("n0", "failed", 5)
    team.router.update(FakeNode("n0", uid="u2"))
    assert team.out() == {}
    assert "n0" in team.picked()


def test_an_ejected_node_may_leave() -> None:
    team = Team(4)
    team.ends("n0", "failed", 5)
    team.router.remove("default/n0")
    assert team.out() == {}
    team.clock.advance(1000)
    assert team.picked() == {"n1", "n2", "n3"}


def test_late_results_of_an_ejected_node_do_not_eject_it_twice() -> None:
    team = Team(4)
    team.ends("n0", "failed", 9)
    team.ends("n0", "ok")
    assert team.router.stats.ejected == 1
    assert team.out() == {"n0": 10.0}


def test_it_can_be_switched_off() -> None:
    team = Team(4, None)
    team.ends("n0", "failed", 100)
    assert team.out() == {}
    assert "n0" in team.picked()


@given(st.integers(0, 5000), st.floats(0, 1, exclude_max=True))
def test_no_ejection_is_shorter_than_the_base_or_longer_than_the_cap(strikes: int, chance: float) -> None:
    policy = EjectionPolicy(base=2.0, cap=60.0, jitter=0.25)
    assert 2.0 <= policy.duration(strikes, chance) <= 60.0 * 1.25
    assert policy.duration(strikes, chance) <= policy.duration(strikes + 1, chance)


@pytest.mark.parametrize(
    "wrong",
    [
        {"consecutive": 0},
        {"volume": 0},
        {"volume": 21},
        {"heal": 0},
        {"rate": 0.0},
        {"rate": 1.1},
        {"share": 0.6},
        {"share": -0.1},
        {"jitter": -1.0},
        {"base": 0.0},
        {"base": 400.0},
        {"cap": float("nan")},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="ejection: "):
        EjectionPolicy(**wrong)
