"""What each strategy promises, in a router."""

import random
import subprocess
import sys
from collections import Counter
from hashlib import blake2b

import pytest
from tests.routing.nodes import WRITE, FakeNode

from roster.errors import AllNodesBusyError, ConfigError
from roster.routing import STRATEGIES, Router, Seat, Strategy, Tier


def team(size: int, *, strategy: str = "least_loaded", capacity: int = 3) -> Router:
    router = Router(strategy=strategy, rng=random.Random(1))
    for number in range(size):
        router.update(FakeNode(f"n{number}", capacity=capacity))
    return router


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
class TestEveryStrategy:
    def test_steps_over_the_full_and_the_excluded(self, strategy: str) -> None:
        router = team(4)
        router.update(FakeNode("n0", 3, 3, seq=2))
        for number in range(100):
            node = router.pick(WRITE, strategy=strategy, sticky_key=f"key {number}", exclude=["default/n1"])
            assert node.name in ("n2", "n3")

    def test_says_all_busy_when_nobody_has_room(self, strategy: str) -> None:
        router = team(2, capacity=0)
        with pytest.raises(AllNodesBusyError):
            router.pick(WRITE, strategy=strategy, sticky_key="k")

    def test_never_overfills_a_node(self, strategy: str) -> None:
        router = team(5, capacity=4)
        sent: Counter[str] = Counter()
        for number in range(20):
            node = router.pick(WRITE, strategy=strategy, sticky_key=str(number))
            router.sent(node.key)
            sent[node.name] += 1
        assert set(sent.values()) == {4}

    def test_is_the_routers_own_when_asked_for(self, strategy: str) -> None:
        router = team(3, strategy=strategy)
        assert router.pick(WRITE, sticky_key="k" if strategy == "sticky" else None).name in ("n0", "n1", "n2")


class TestLeastLoaded:
    def test_finds_the_one_that_is_not_excluded_among_many(self) -> None:
        router = team(200)
        tried = {f"default/n{number}" for number in range(200)} - {"default/n77"}
        assert router.pick(WRITE, exclude=tried).name == "n77"

    def test_draws_equally_among_few_that_are_left_of_many(self) -> None:
        router = team(300)
        left = {"n10", "n150", "n290"}
        tried = {f"default/n{number}" for number in range(300) if f"n{number}" not in left}
        drawn = Counter(router.pick(WRITE, exclude=tried).name for _ in range(900))
        assert set(drawn) == left
        assert max(abs(count - 300) for count in drawn.values()) < 75

    def test_goes_up_a_level_when_the_whole_level_is_excluded(self) -> None:
        router = team(3)
        router.sent("default/n2")
        assert router.pick(WRITE, exclude={"default/n0", "default/n1"}).name == "n2"

    def test_draws_equally_among_those_that_are_not_excluded(self) -> None:
        router = team(5)
        drawn = Counter(router.pick(WRITE, exclude={"default/n0"}).name for _ in range(4000))
        assert set(drawn) == {"n1", "n2", "n3", "n4"}
        assert max(abs(count - 1000) for count in drawn.values()) < 150


class TestRandom:
    def test_draws_equally_whatever_the_load(self) -> None:
        router = team(4, capacity=10)
        for _ in range(9):
            router.sent("default/n0")
        router.sent("default/n1")
        drawn = Counter(router.pick(WRITE, strategy="random").name for _ in range(4000))
        assert set(drawn) == {"n0", "n1", "n2", "n3"}
        assert max(abs(count - 1000) for count in drawn.values()) < 150


class TestRoundRobin:
    def test_each_has_its_turn_before_anyone_has_a_second(self) -> None:
        router = team(7, strategy="round_robin")
        names = [router.pick(WRITE).name for _ in range(21)]
        assert len(set(names[:7])) == 7
        assert names == names[:7] * 3

    def test_nodes_that_come_and_go_do_not_disturb_the_turn_of_the_others(self) -> None:
        router = team(6, strategy="round_robin")
        first = [router.pick(WRITE).name for _ in range(3)]
        rest = [f"n{(int(first[-1][1:]) + step) % 6}" for step in (1, 2, 3)]
        router.remove(f"default/{first[0]}")
        router.remove(f"default/{rest[1]}")
        assert [router.pick(WRITE).name for _ in range(2)] == [rest[0], rest[2]]

    def test_a_new_node_gets_its_turn_within_one_round(self) -> None:
        router = team(3, strategy="round_robin")
        router.pick(WRITE)
        router.update(FakeNode("new"))
        assert "new" in {router.pick(WRITE).name for _ in range(4)}

    def test_callers_do_not_all_start_with_the_same_node(self) -> None:
        starts = set()
        for seed in range(30):
            router = Router(strategy="round_robin", rng=random.Random(seed))
            for number in range(5):
                router.update(FakeNode(f"n{number}"))
            starts.add(router.pick(WRITE).name)
        assert len(starts) > 2

    def test_each_question_has_a_turn_of_its_own(self) -> None:
        router = team(4, strategy="round_robin")
        everybody = [router.pick(WRITE).name for _ in range(2)]
        for _ in range(3):
            router.pick(WRITE, namespace="default")
        everybody += [router.pick(WRITE).name for _ in range(2)]
        assert len(set(everybody)) == 4


class TestSticky:
    def test_a_key_stays_with_its_node(self) -> None:
        router = team(20)
        first = {key: router.pick(WRITE, sticky_key=key).name for key in map(str, range(100))}
        assert {key: router.pick(WRITE, sticky_key=key).name for key in first} == first
        assert len(set(first.values())) > 15

    def test_the_order_of_arrival_does_not_matter(self) -> None:
        router, other = Router(), Router()
        nodes = [FakeNode(f"n{number}") for number in range(20)]
        for node in nodes:
            router.update(node)
        for node in reversed(nodes):
            other.update(node)
        for key in map(str, range(50)):
            assert router.pick(WRITE, sticky_key=key) == other.pick(WRITE, sticky_key=key)

    def test_a_node_that_leaves_moves_only_its_own_keys(self) -> None:
        router = team(10)
        first = {key: router.pick(WRITE, sticky_key=key).name for key in map(str, range(200))}
        router.remove("default/n3")
        for key, name in first.items():
            now = router.pick(WRITE, sticky_key=key).name
            assert now == name if name != "n3" else now != "n3"
        router.update(FakeNode("n3"))
        assert {key: router.pick(WRITE, sticky_key=key).name for key in first} == first

    def test_it_falls_to_the_next_in_order_when_the_first_is_full_and_comes_back(self) -> None:
        router = team(10)
        first = router.pick(WRITE, sticky_key="k").key
        second = router.pick(WRITE, sticky_key="k", exclude={first}).key
        for _ in range(3):
            router.sent(first)
        assert router.pick(WRITE, sticky_key="k").key == second
        router.done(first, "ok")
        assert router.pick(WRITE, sticky_key="k").key == first

    def test_another_process_agrees(self) -> None:
        code = (
            "from roster.routing import Router\n"
            "from tests.routing.nodes import FakeNode\n"
            "router = Router()\n"
            "[router.update(FakeNode(f'n{number}')) for number in range(50)]\n"
            "print([router.pick('write_article', sticky_key=f'k{key}').name for key in range(30)])\n"
        )
        outputs = {
            subprocess.run(
                [sys.executable, "-c", code],
                env={"PYTHONHASHSEED": seed},
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
            ).stdout
            for seed in ("1", "2")
        }
        assert len(outputs) == 1

    def test_the_scores_are_fixed_for_other_versions_and_languages(self) -> None:
        # A change of the definition would move every key of every caller that was not upgraded at the same time.
        router = team(10)
        keys = ("a", "b", "ключ", "x" * 1000)
        assert [router.pick(WRITE, sticky_key=key).name for key in keys] == ["n3", "n8", "n1", "n9"]
        assert [by_definition(key, 10) for key in keys] == ["n3", "n8", "n1", "n9"]

    def test_it_needs_a_key(self) -> None:
        with pytest.raises(ConfigError, match="needs a key"):
            team(2).pick(WRITE, strategy="sticky")


def by_definition(key: str, size: int) -> str:
    """Rendezvous hashing as the docstring of `Sticky` has it."""

    def score(name: str) -> bytes:
        return blake2b(f"default/{name}".encode(), key=blake2b(key.encode()).digest(), digest_size=8).digest()

    return max((f"n{number}" for number in range(size)), key=score)


def test_a_strategy_is_added_by_one_class_and_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    class ByName:
        def choose(self, tier: Tier[object], *_: object) -> Seat[object] | None:
            return max((seat for seat in tier.members.values() if seat.open), key=lambda seat: seat.key)

    made: type[Strategy] = ByName
    monkeypatch.setitem(STRATEGIES, "by_name", made)
    assert team(5).pick(WRITE, strategy="by_name").name == "n4"
