"""Who is a candidate, who is asked last, and the one reason of everybody else."""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from tests.routing.nodes import WRITE, FakeClock, FakeNode

from roster.errors import AllNodesBusyError, ConfigError, NoCapableNodesError, SelectorError
from roster.passport import Selector, VersionRange
from roster.routing import Router


def router_of(*nodes: FakeNode, **options: Any) -> Router:
    router = Router(rng=random.Random(1), now=FakeClock(), **options)
    for node in nodes:
        router.update(node)
    return router


def everybody_picked(router: Router, **question: Any) -> set[str]:
    """All names that come up in many picks at random."""
    return {router.pick(WRITE, strategy="random", **question).name for _ in range(200)}


def reasons(router: Router, **question: Any) -> dict[str, str]:
    return {row.node.removeprefix("default/"): row.reason for row in router.explain(WRITE, **question)}


def test_the_least_loaded_is_picked_and_what_is_sent_counts() -> None:
    router = router_of(FakeNode("a", 1, 3), FakeNode("b", 1, 4), FakeNode("c", 2, 4))
    assert router.pick(WRITE).name == "b"
    router.sent("default/b")
    assert router.pick(WRITE).name == "a"
    router.sent("default/a")
    assert {router.pick(WRITE).name for _ in range(50)} == {"b", "c"}
    router.done("default/b", "ok")
    assert router.pick(WRITE).name == "b"


def test_sixty_commands_spread_as_the_room_is() -> None:
    router = router_of(FakeNode("a", capacity=10), FakeNode("b", capacity=20), FakeNode("c", capacity=30))
    sent: Counter[str] = Counter()
    for _ in range(60):
        node = router.pick(WRITE)
        router.sent(node.key)
        sent[node.name] += 1
    assert sent == {"a": 10, "b": 20, "c": 30}
    with pytest.raises(AllNodesBusyError):
        router.pick(WRITE)


def test_equals_are_chosen_about_equally_often() -> None:
    router = router_of(*(FakeNode(f"n{number}") for number in range(10)))
    drawn = Counter(router.pick(WRITE).name for _ in range(10_000))
    # 1 000 each; five standard deviations are 150.
    assert set(drawn) == {f"n{number}" for number in range(10)}
    assert max(abs(count - 1000) for count in drawn.values()) < 150


def test_what_is_picked_is_the_newest_record() -> None:
    router = router_of(FakeNode("a"))
    newer = FakeNode("a", seq=2, labels={"fresh": "yes"})
    router.pick(WRITE)
    router.update(newer)
    assert router.pick(WRITE) is newer


@pytest.mark.parametrize("state", ["starting", "draining", "offline"])
def test_only_ready_and_busy_nodes_are_candidates(state: str) -> None:
    router = router_of(FakeNode("a", state=state), FakeNode("b", state="busy", active_tasks=2))
    assert router.pick(WRITE).name == "b"
    assert reasons(router) == {"b": "candidate: 2 of 3 tasks", "a": f"state {state}"}


def test_a_state_that_changes_moves_the_node_in_and_out() -> None:
    router = router_of(FakeNode("a"))
    assert router.free(WRITE) == 3
    for state, room in [("draining", 0), ("ready", 3), ("offline", 0), ("busy", 3), ("unknown", 3)]:
        router.update(FakeNode("a", state=state))
        assert router.free(WRITE) == room, state


def test_the_namespace_narrows() -> None:
    router = router_of(FakeNode("a", namespace="x"), FakeNode("b", namespace="y"))
    assert everybody_picked(router) == {"a", "b"}
    assert everybody_picked(router, namespace="y") == {"b"}
    assert [(row.node, row.reason) for row in router.explain(WRITE, namespace="y")] == [
        ("y/b", "candidate: 0 of 3 tasks"),
        ("x/a", "namespace x, asked for y"),
    ]


def test_the_version_range_narrows_and_a_node_without_version_is_outside() -> None:
    router = router_of(
        FakeNode("old", capabilities={WRITE: "1.0.0"}),
        FakeNode("new", capabilities={WRITE: "2.1.0"}),
        FakeNode("bare", capabilities={WRITE: None}),
    )
    assert everybody_picked(router) == {"old", "new", "bare"}
    assert everybody_picked(router, version=">=2") == {"new"}
    assert everybody_picked(router, version=VersionRange.parse(">=2")) == {"new"}
    assert reasons(router, version=">=2") == {
        "new": "candidate: 0 of 3 tasks",
        "bare": "no version, asked for >=2.0.0",
        "old": "version 1.0.0 is outside >=2.0.0",
    }


def test_the_selector_narrows_and_follows_labels_that_change() -> None:
    router = router_of(FakeNode("a", labels={"role": "writer"}), FakeNode("b", labels={"role": "editor"}))
    assert everybody_picked(router, selector="role=writer") == {"a"}
    assert everybody_picked(router, selector=Selector.parse("role=writer")) == {"a"}
    assert reasons(router, selector="role=writer")["b"] == "labels do not match role=writer"
    router.update(FakeNode("b", labels={"role": "writer"}))
    router.update(FakeNode("a", labels={"role": "editor"}))
    assert everybody_picked(router, selector="role=writer") == {"b"}


def test_a_selector_on_a_field_of_the_document_follows_the_document() -> None:
    def node(model: str) -> FakeNode:
        return FakeNode("a", document={"spec": {"resources": {"llm_model": model}}})

    selector = "spec.resources.llm_model=gpt-4"
    router = router_of(node("gpt-3"))
    with pytest.raises(NoCapableNodesError):
        router.pick(WRITE, selector=selector)
    router.update(node("gpt-4"))
    assert router.pick(WRITE, selector=selector).name == "a"
    router.update(node("gpt-5"))
    with pytest.raises(NoCapableNodesError, match=r"labels do not match spec\.resources\.llm_model=gpt-4"):
        router.pick(WRITE, selector=selector)


def test_capabilities_that_change_move_the_node() -> None:
    router = router_of(FakeNode("a"))
    assert router.free("edit_text") == 0
    router.pick(WRITE)
    router.update(FakeNode("a", capabilities={"edit_text": None}))
    assert router.pick("edit_text").name == "a"
    with pytest.raises(NoCapableNodesError, match="no registered node has the capability 'write_article'"):
        router.pick(WRITE)
    assert router.explain(WRITE) == []


def test_a_node_that_is_removed_is_gone_from_every_pool() -> None:
    router = router_of(FakeNode("a"), FakeNode("b", labels={"x": "y"}))
    router.pick(WRITE)
    router.pick(WRITE, selector="x=y")
    router.remove("default/b")
    assert everybody_picked(router) == {"a"}
    assert router.free(WRITE, selector="x=y") == 0
    assert len(router) == 1


def test_nobody_has_it() -> None:
    with pytest.raises(NoCapableNodesError) as caught:
        router_of(FakeNode("a")).pick("fly")
    assert caught.value.capability == "fly"
    assert caught.value.passed_over == ()
    assert caught.value.outcome == "not_sent"
    assert "start one whose passport declares it" in str(caught.value)


def test_each_node_has_exactly_one_reason_and_the_error_says_what_explain_says() -> None:
    router = router_of(
        FakeNode("gone", state="offline"),
        FakeNode("tried"),
        FakeNode("doubted"),
        FakeNode("silent", state="unknown"),
        FakeNode("full", 3, 3),
        FakeNode("closed", 0, 0),
        FakeNode("elsewhere", namespace="other"),
    )
    router.suspect("default/doubted", "no answer to a ping for 0.5 s")
    question: dict[str, Any] = {"namespace": "default", "exclude": {"default/tried"}}
    with pytest.raises(AllNodesBusyError) as caught:
        router.pick(WRITE, **question)
    rows = router.explain(WRITE, **question)
    assert list(caught.value.passed_over) == rows
    assert [(row.node, row.state, row.load, row.reason) for row in rows] == [
        ("default/closed", "ready", float("inf"), "full: 0 of 0 tasks"),
        ("default/doubted", "ready", 0.0, "suspect: no answer to a ping for 0.5 s"),
        ("default/full", "ready", 1.0, "full: 3 of 3 tasks"),
        ("default/gone", "offline", 0.0, "state offline"),
        ("default/silent", "unknown", 0.0, "state unknown"),
        ("default/tried", "ready", 0.0, "already tried"),
        ("other/elsewhere", "ready", 0.0, "namespace other, asked for default"),
    ]
    assert "default/full: full: 3 of 3 tasks" in str(caught.value)


def test_candidates_are_explained_first_and_in_order_of_load() -> None:
    router = router_of(
        FakeNode("a", state="draining"), FakeNode("b", 2, 3), FakeNode("c", 1, 3), FakeNode("d", 3, 3)
    )
    assert list(reasons(router)) == ["c", "b", "a", "d"]


def test_the_table_in_an_error_is_bounded_and_says_so() -> None:
    router = router_of(*(FakeNode(f"n{number:04}", state="offline") for number in range(1200)))
    with pytest.raises(NoCapableNodesError, match="the first 1000 of 1200 are listed") as caught:
        router.pick(WRITE)
    assert len(caught.value.passed_over) == 1000
    assert len(router.explain(WRITE)) == 1200


class TestLastResort:
    def test_unknown_and_suspect_nodes_are_asked_only_when_nobody_else_is_a_candidate(self) -> None:
        router = router_of(FakeNode("a", 2, 3), FakeNode("b", state="unknown"), FakeNode("c"))
        router.suspect("default/c")
        assert everybody_picked(router) == {"a"}
        router.remove("default/a")
        assert everybody_picked(router) == {"b", "c"}
        assert reasons(router) == {
            "b": "candidate of last resort (state unknown): 0 of 3 tasks",
            "c": "candidate of last resort (suspect: silent): 0 of 3 tasks",
        }

    def test_a_full_candidate_is_waited_for_rather_than_a_suspect_asked(self) -> None:
        router = router_of(FakeNode("a", 3, 3), FakeNode("b"))
        router.suspect("default/b")
        assert router.free(WRITE) == 0
        with pytest.raises(AllNodesBusyError):
            router.pick(WRITE)

    def test_when_all_others_were_tried_they_are_asked(self) -> None:
        router = router_of(FakeNode("a"), FakeNode("b", state="unknown"))
        assert router.pick(WRITE, exclude={"default/a"}).name == "b"
        with pytest.raises(NoCapableNodesError, match="already tried"):
            router.pick(WRITE, exclude={"default/a", "default/b"})

    def test_trust_takes_the_suspicion_back(self) -> None:
        router = router_of(FakeNode("a"), FakeNode("b"))
        router.suspect("default/a")
        assert everybody_picked(router) == {"b"}
        router.trust("default/a")
        assert everybody_picked(router) == {"a", "b"}

    def test_suspicion_outlives_an_update_and_ends_with_the_incarnation(self) -> None:
        router = router_of(FakeNode("a"), FakeNode("b"))
        router.suspect("default/a")
        router.update(FakeNode("a", seq=2))
        assert everybody_picked(router) == {"b"}
        router.update(FakeNode("a", uid="u2"))
        assert everybody_picked(router) == {"a", "b"}


class TestAllBusy:
    def test_is_another_error_than_nobody_can(self) -> None:
        router = router_of(FakeNode("a", 3, 3))
        with pytest.raises(AllNodesBusyError) as caught:
            router.pick(WRITE)
        assert caught.value.retryable
        assert caught.value.retry_after == 1.0
        assert router.choose(WRITE) is None
        assert router.choose("fly") is None
        assert (router.stats.all_busy, router.stats.nobody) == (1, 0)

    @pytest.mark.parametrize(("took", "after"), [(6.0, 2.0), (0.001, 0.05), (1e6, 30.0)])
    def test_says_when_a_task_should_end(self, took: float, after: float) -> None:
        router = router_of(FakeNode("a", 0, 3))
        router.sent("default/a")
        router.done("default/a", "ok", load=(3, 0, 3, 2), duration=took)
        with pytest.raises(AllNodesBusyError) as caught:
            router.pick(WRITE)
        assert caught.value.retry_after == pytest.approx(after)

    def test_is_not_what_excluded_nodes_make(self) -> None:
        router = router_of(FakeNode("a"))
        with pytest.raises(NoCapableNodesError):
            router.pick(WRITE, exclude=["default/a"])


class TestFree:
    def test_counts_the_room_of_all_candidates(self) -> None:
        router = router_of(
            FakeNode("a", 1, 3), FakeNode("b", 0, 5), FakeNode("c", 9, 3), FakeNode("d", state="draining")
        )
        assert router.free(WRITE) == 7
        router.sent("default/a")
        assert router.free(WRITE) == 6
        router.done("default/a", "ok")
        router.remove("default/b")
        assert router.free(WRITE) == 2

    def test_is_nothing_where_nobody_can(self) -> None:
        assert Router().free(WRITE) == 0


class TestPools:
    def test_the_least_recently_asked_question_is_dropped_and_can_be_asked_again(self) -> None:
        router = router_of(FakeNode("a", labels={"n": "1"}), FakeNode("b", labels={"n": "2"}), max_pools=2)
        for _ in range(3):
            assert everybody_picked(router, selector="n=1") == {"a"}
            assert everybody_picked(router, selector="n=2") == {"b"}
            assert everybody_picked(router) == {"a", "b"}
            assert len(router._pools._pools) == 2
        stats = router.stats
        assert stats.pools_built - stats.pools_dropped == 2
        assert stats.pools_dropped > 0
        assert all(len(account.seats) <= 2 for account in router._accounts.values())

    def test_a_question_in_use_is_kept(self) -> None:
        router = router_of(FakeNode("a"), max_pools=2)
        for number in range(5):
            router.free(WRITE)
            router.free(WRITE, selector=f"n={number}")
        assert router.stats.pools_built == 6

    def test_what_was_sent_before_the_question_was_asked_counts_in_it(self) -> None:
        router = router_of(FakeNode("a"), FakeNode("b"))
        router.sent("default/a")
        assert router.pick(WRITE).name == "b"
        assert router.pick(WRITE, namespace="default").name == "b"

    def test_a_question_that_cannot_be_read_is_said_and_leaves_nothing_behind(self) -> None:
        router = router_of(FakeNode("a"))
        with pytest.raises(SelectorError):
            router.pick(WRITE, selector="role in (")
        with pytest.raises(SelectorError):
            router.pick(WRITE, version=">>1")
        assert router.stats.pools_built == 0
        assert router.pick(WRITE).name == "a"


def test_versions_without_end_do_not_fill_the_memory() -> None:
    router = router_of()
    router.free(WRITE, version=">=2")
    for number in range(3000):
        router.update(FakeNode("a", capabilities={WRITE: f"1.0.{number}"}))
    (pool,) = router._pools._pools.values()
    assert len(pool._outside) <= 1024


@pytest.mark.parametrize(
    "wrong",
    [lambda: Router(strategy="best"), lambda: router_of(FakeNode("a")).pick(WRITE, strategy="best")],
)
def test_an_unknown_strategy_is_said_with_those_there_are(wrong: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match="'best': choose one of least_loaded, round_robin, random, sticky"):
        wrong()


def test_a_withdrawn_capability_is_a_reason_and_goes_when_it_is_offered_again() -> None:
    router = Router()
    node = FakeNode("a")
    router.update(node.with_(capabilities={}, withdrawn=(WRITE,)))

    (row,) = router.explain(WRITE)
    assert (row.node, row.reason, row.candidate) == ("default/a", "capability withdrawn at present", False)
    with pytest.raises(NoCapableNodesError, match="withdrawn at present"):
        router.pick(WRITE)

    router.update(node)
    (row,) = router.explain(WRITE)
    assert (row.reason, row.candidate) == ("candidate: 0 of 3 tasks", True)

    router.update(node.with_(capabilities={}, withdrawn=(WRITE,)))
    router.remove("default/a")
    assert router.explain(WRITE) == []
