"""The candidates for one question (capability, version range, selector, namespace), kept ready."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import TypeAlias

from roster.passport import Selector, VersionRange
from roster.routing.account import Account, Routable
from roster.routing.strategies import Strategy, make_strategy
from roster.routing.tier import Seat, Tier

Question: TypeAlias = tuple[str, VersionRange | str | None, Selector | str | None, str | None]
"""Capability, version range, selector, namespace, as the caller gave them."""


class Pool:
    """Those who can answer one question.

    Attributes:
        capability: what the question is about.
        first: candidates that are ready or busy.
        last: candidates of last resort, suspect or of unknown state: asked when `first` has no candidate.
        default: this pool's instance of the strategy that is used where none is named.
    """

    def __init__(self, question: Question, default: Strategy) -> None:
        self.capability, version, selector, self._namespace = question
        self.first: Tier[Account] = Tier()
        self.last: Tier[Account] = Tier()
        self.default = default
        self._range = VersionRange.parse(version) if isinstance(version, str) else version
        self._selector = Selector.parse(selector) if isinstance(selector, str) else selector
        self._selector_text = "" if self._selector is None else str(self._selector)
        self._outside: dict[str | None, str | None] = {}
        self._strategies: dict[str, Strategy] = {}

    def mismatch(self, node: Routable) -> str | None:
        """Return why this node, which has the capability, is not meant; None when it is."""
        if self._namespace is not None and node.namespace != self._namespace:
            return f"namespace {node.namespace}, asked for {self._namespace}"
        if self._range is not None:
            outside = self._version(node.capabilities.get(self.capability))
            if outside is not None:
                return outside
        if self._selector is not None and not node.matches(self._selector):
            return f"labels do not match {self._selector_text}"
        return None

    def seat(self, account: Account) -> Seat[Account] | None:
        """Return the seat of a node, None when it has none here."""
        order = account.order
        return self.first.members.get(order) or self.last.members.get(order)

    def strategy(self, name: str) -> Strategy:
        """Return this pool's own instance of a strategy."""
        found = self._strategies.get(name)
        if found is None:
            found = self._strategies[name] = make_strategy(name)
        return found

    def asked(self, exclude: Collection[str] = ()) -> Tier[Account] | None:
        """Return the tier whose candidates are asked; None when there is no candidate in either."""
        if self.first.has_candidate(exclude):
            return self.first
        return self.last if self.last.has_candidate(exclude) else None

    def admit(self, account: Account) -> None:
        """Give a node the seat that its document, state and standing with the caller earn it, or none."""
        tier = self._tier(account)
        if tier is not None and self.mismatch(account.node) is not None:
            tier = None
        seat = self.seat(account)
        if seat is not None:
            if seat.tier is tier:
                return
            self.dismiss(account)
        if tier is not None:
            rank, spare = account.count.standing()
            out = account.record.until is not None
            seat = Seat(account, account.node.key, account.order, rank, spare, out=out)
            account.seats.append(seat)
            tier.join(seat)

    def dismiss(self, account: Account) -> None:
        """Take a node's seat away."""
        seat = self.seat(account)
        if seat is not None and seat.tier is not None:
            account.seats.remove(seat)
            seat.tier.leave(seat)

    def close(self) -> None:
        """Take every seat away: the pool is used no more."""
        for tier in (self.first, self.last):
            for seat in tier.members.values():
                seat.what.seats.remove(seat)

    def _tier(self, account: Account) -> Tier[Account] | None:
        state = account.node.state
        if state in ("ready", "busy"):
            return self.first if account.suspicion is None else self.last
        return self.last if state == "unknown" else None

    def _version(self, version: str | None) -> str | None:
        """Return why a capability of this version is not meant. Parsing is slow, versions are few: kept."""
        if version not in self._outside:
            if len(self._outside) >= 1024:
                self._outside.clear()
            if version is None:
                reason: str | None = f"no version, asked for {self._range}"
            elif self._range is not None and not self._range.matches(version):
                reason = f"version {version} is outside {self._range}"
            else:
                reason = None
            self._outside[version] = reason
        return self._outside[version]


class Pools:
    """The nodes by capability, and a pool for each question in use: the least recently asked is dropped.

    Attributes:
        built: pools made so far.
        dropped: pools dropped so far to make room.
    """

    def __init__(self, strategy: str, limit: int) -> None:
        make_strategy(strategy)  # a wrong name is said at once, not at the first question
        self.built = 0
        self.dropped = 0
        self._strategy = strategy
        self._limit = max(1, limit)
        self._capable: dict[str, dict[str, Account]] = {}
        self._withheld: dict[str, dict[str, Account]] = {}
        self._pools: OrderedDict[Question, Pool] = OrderedDict()
        self._by_capability: dict[str, list[Pool]] = {}
        self._recent: Pool | None = None

    def capable(self, capability: str) -> Mapping[str, Account]:
        """Return every node that has the capability, in any version, by key."""
        return self._capable.get(capability, {})

    def withheld(self, capability: str) -> Mapping[str, Account]:
        """Return every node that has the capability and does not offer it at present, by key."""
        return self._withheld.get(capability, {})

    def pool(self, question: Question) -> Pool:
        """Return the pool for a question; the first time, every node with the capability is looked at."""
        pool = self._pools.get(question)
        if pool is None:
            pool = self._build(question)
        elif pool is not self._recent:
            self._pools.move_to_end(question)
        self._recent = pool
        return pool

    def enter(self, account: Account) -> None:
        """Take a node in, or bring its seats up to date with what it is now."""
        key = account.node.key
        for capability in account.node.capabilities:
            self._capable.setdefault(capability, {})[key] = account
            for pool in self._by_capability.get(capability, ()):
                pool.admit(account)
        for capability in account.node.withdrawn:
            self._withheld.setdefault(capability, {})[key] = account
        account.place()

    def forget_withheld(self, account: Account) -> None:
        """Take a node out from under the capabilities that it does not offer."""
        for capability in account.node.withdrawn:
            holders = self._withheld.get(capability)
            if holders is not None:
                holders.pop(account.node.key, None)
                if not holders:
                    del self._withheld[capability]

    def withdraw(self, account: Account, capabilities: Collection[str]) -> None:
        """Take a node out from under some capabilities."""
        for capability in capabilities:
            holders = self._capable.get(capability)
            if holders is not None:
                holders.pop(account.node.key, None)
                if not holders:
                    del self._capable[capability]
            for pool in self._by_capability.get(capability, ()):
                pool.dismiss(account)

    def _build(self, question: Question) -> Pool:
        pool = Pool(question, make_strategy(self._strategy))
        while len(self._pools) >= self._limit:
            self._drop()
        self._pools[question] = pool
        self._by_capability.setdefault(pool.capability, []).append(pool)
        for account in self.capable(pool.capability).values():
            pool.admit(account)
        self.built += 1
        return pool

    def _drop(self) -> None:
        _, pool = self._pools.popitem(last=False)
        pool.close()
        siblings = self._by_capability[pool.capability]
        siblings.remove(pool)
        if not siblings:
            del self._by_capability[pool.capability]
        self.dropped += 1
