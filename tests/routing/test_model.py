"""A model that recomputes everything naively agrees with the router after any sequence of events."""

from __future__ import annotations

import random
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.routing.nodes import FakeClock, FakeNode
from tests.routing.test_tier import assert_whole

from roster.errors import AllNodesBusyError, NoCapableNodesError
from roster.passport import Selector, VersionRange
from roster.routing import EjectionPolicy, Outcome, Router

NAMES = [f"n{number}" for number in range(6)]
STATES = ["ready", "ready", "ready", "busy", "unknown", "draining", "offline", "starting"]
CAPABILITIES: list[dict[str, str | None]] = [
    {"write": "1.0.0"},
    {"write": "2.0.0", "edit": None},
    {"write": None},
    {"edit": "1.0.0"},
]
QUESTIONS: list[dict[str, Any]] = [
    {},
    {"version": ">=2"},
    {"selector": "role=writer"},
    {"namespace": "x"},
    {"namespace": "default", "selector": "role=writer", "version": ">=1"},
]


@dataclass
class Believed:
    """What a careful reader of the contract would write down about one node."""

    node: FakeNode
    mine: int = 0
    others: int = 0
    seq: int = -1
    capacity: int = 0
    suspect: bool = False
    trial: bool = False

    def status(self, node: FakeNode) -> None:
        self.node = node
        if node.seq > self.seq:
            self.others = max(0, node.active_tasks - self.mine)
            self.seq = node.seq
            self.capacity = node.capacity
        elif node.seq == self.seq:
            self.capacity = node.capacity

    def room(self) -> int:
        spare = max(0, self.capacity - self.others - self.mine)
        return min(spare, max(0, 1 - self.mine)) if self.trial else spare

    def load(self) -> Fraction:
        return Fraction(self.others + self.mine, self.capacity)


class RouterAgainstModel(RuleBasedStateMachine):
    """Events in any order; after each, every question is answered by both."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.router = Router(
            now=self.clock,
            rng=random.Random(1),
            ejection=EjectionPolicy(consecutive=2, volume=4, window=6, base=5.0, jitter=0.0),
            max_pools=4,
        )
        self.model: dict[str, Believed] = {}
        self.out: set[str] = set()
        self.incarnations = 0

    def follow_ejections(self) -> None:
        """Learn who is out from the router, and who has come back on trial."""
        now_out = set(self.router.ejected())
        for key in self.out - now_out:
            if key in self.model:
                self.model[key].trial = True
        self.out = now_out

    @rule(
        name=st.sampled_from(NAMES),
        namespace=st.sampled_from(["default", "x"]),
        state=st.sampled_from(STATES),
        capabilities=st.sampled_from(CAPABILITIES),
        writer=st.booleans(),
        active=st.integers(0, 4),
        capacity=st.integers(1, 4),
        newer=st.integers(-1, 2),
        restarted=st.integers(0, 5),
    )
    def update(
        self,
        name: str,
        namespace: str,
        state: str,
        capabilities: dict[str, str | None],
        writer: bool,
        active: int,
        capacity: int,
        newer: int,
        restarted: int,
    ) -> None:
        key = f"{namespace}/{name}"
        known = self.model.get(key)
        self.incarnations += 1
        fresh = known is None or restarted == 0
        node = FakeNode(
            name,
            active,
            capacity,
            namespace=namespace,
            uid=f"u{self.incarnations}" if known is None or fresh else known.node.uid,
            state=state,
            seq=5 if known is None else max(1, known.seq + newer),
            labels={"role": "writer" if writer else "editor"},
            capabilities=capabilities,
        )
        if known is None or fresh:
            known = self.model[key] = Believed(node)
            self.out.discard(key)
        known.status(node)
        self.router.update(node)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        if self.model:
            key = data.draw(st.sampled_from(sorted(self.model)))
            del self.model[key]
            self.out.discard(key)
            self.router.remove(key)

    @rule(data=st.data(), times=st.integers(1, 3))
    def send(self, data: st.DataObject, times: int) -> None:
        if self.model:
            key = data.draw(st.sampled_from(sorted(self.model)))
            for _ in range(times):
                self.model[key].mine += 1
                self.router.sent(key)

    @rule(
        data=st.data(),
        outcome=st.sampled_from(["ok", "failed", "failed", "timeout", "refused", "cancelled"]),
        load=st.none()
        | st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(1, 4), st.integers(-1, 2)),
        times=st.integers(1, 3),
    )
    def finish(
        self, data: st.DataObject, outcome: Outcome, load: tuple[int, int, int, int] | None, times: int
    ) -> None:
        if not self.model:
            return
        key = data.draw(st.sampled_from(sorted(self.model)))
        believed = self.model[key]
        for _ in range(times):
            self.follow_ejections()
            believed.mine = max(0, believed.mine - 1)
            report = None
            if load is not None:
                report = (*load[:3], believed.seq + load[3])
                if load[3] >= 0:
                    believed.others = max(0, load[0] - load[1])
                    believed.capacity = load[2]
                    believed.seq = report[3]
            if outcome == "ok" and key not in self.out:
                believed.trial = False
            self.router.done(key, outcome, load=report)
        self.follow_ejections()

    @rule(data=st.data(), suspected=st.booleans())
    def doubt(self, data: st.DataObject, suspected: bool) -> None:
        if self.model:
            key = data.draw(st.sampled_from(sorted(self.model)))
            self.model[key].suspect = suspected
            (self.router.suspect if suspected else self.router.trust)(key)

    @rule(seconds=st.sampled_from([1.0, 5.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.follow_ejections()

    @rule(
        capability=st.sampled_from(["write", "edit"]),
        question=st.sampled_from(QUESTIONS),
        exclude=st.sets(st.sampled_from([f"default/{name}" for name in NAMES]), max_size=3),
    )
    def ask(self, capability: str, question: dict[str, Any], exclude: set[str]) -> None:
        self.follow_ejections()
        asked = self.asked(capability, question, exclude)
        open_ones = [believed for believed in asked if believed.room() > 0]
        router = self.router
        if not exclude:
            assert router.free(capability, **question) == sum(believed.room() for believed in asked)
        if open_ones:
            least = min(believed.load() for believed in open_ones)
            expected = {believed.node.key for believed in open_ones if believed.load() == least}
            picked = {router.pick(capability, **question, exclude=exclude).key for _ in range(4)}
            assert picked <= expected
            anybody = {believed.node.key for believed in open_ones}
            for strategy in ("round_robin", "random", "sticky"):
                node = router.pick(
                    capability, **question, exclude=exclude, strategy=strategy, sticky_key="a key"
                )
                assert node.key in anybody
        else:
            with pytest.raises((AllNodesBusyError, NoCapableNodesError)) as caught:
                router.pick(capability, **question, exclude=exclude)
            assert isinstance(caught.value, AllNodesBusyError if asked else NoCapableNodesError)
            table = router.explain(capability, **question, exclude=exclude)
            assert list(caught.value.passed_over) == table
        rows = router.explain(capability, **question, exclude=exclude)
        holders = {key for key, believed in self.model.items() if capability in believed.node.capabilities}
        assert sorted(row.node for row in rows) == sorted(holders)
        named = [row.node for row in rows if row.reason.startswith("candidate")]
        assert sorted(named) == sorted(believed.node.key for believed in open_ones)
        assert [row.node for row in rows][: len(named)] == named

    def asked(self, capability: str, question: dict[str, Any], exclude: set[str]) -> list[Believed]:
        """Those that the contract says are asked, by looking at every node."""
        first: list[Believed] = []
        last: list[Believed] = []
        for believed in self.model.values():
            node = believed.node
            if capability not in node.capabilities:
                continue
            if "namespace" in question and node.namespace != question["namespace"]:
                continue
            if "selector" in question and not node.matches(Selector.parse(question["selector"])):
                continue
            if "version" in question:
                version = node.capabilities[capability]
                if version is None or not VersionRange.parse(question["version"]).matches(version):
                    continue
            if node.state in ("ready", "busy"):
                (last if believed.suspect else first).append(believed)
            elif node.state == "unknown":
                last.append(believed)
        for tier in (first, last):
            out = [believed for believed in tier if believed.node.key in self.out]
            left = [believed for believed in tier if believed.node.key not in self.out]
            candidates = tier if out and 2 * len(left) < len(tier) else left
            candidates = [believed for believed in candidates if believed.node.key not in exclude]
            if candidates:
                return candidates
        return []

    @invariant()
    def every_load_agrees(self) -> None:
        assert len(self.router) == len(self.model)
        for key, believed in self.model.items():
            load = self.router.load(key)
            assert load is not None
            assert (load.mine, load.others, load.capacity) == (
                believed.mine,
                believed.others,
                believed.capacity,
            )

    @invariant()
    def every_pool_is_whole(self) -> None:
        pools = self.router._pools
        assert len(pools._pools) <= 4
        tiers = [tier for pool in pools._pools.values() for tier in (pool.first, pool.last)]
        for tier in tiers:
            assert_whole(tier)  # type: ignore[arg-type]  # written for tiers of names; it looks at the seats alone
        seats = [seat for account in self.router._accounts.values() for seat in account.seats]
        assert len(seats) == sum(len(tier.members) for tier in tiers)
        assert {id(seat) for seat in seats} == {id(seat) for tier in tiers for seat in tier.members.values()}


RouterAgainstModel.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestRouterAgainstModel = RouterAgainstModel.TestCase
