"""Chooses the node for each command of one caller, and counts what that caller has outstanding where."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import count
from math import inf
from typing import Literal, TypeAlias

from roster._clock import boottime
from roster.errors import PassedOver
from roster.passport import Selector, VersionRange
from roster.routing.account import Account, Routable
from roster.routing.load import Load, Report
from roster.routing.outlier import EjectionPolicy
from roster.routing.pool import Pools, Question
from roster.routing.reasons import refusal, table

Outcome: TypeAlias = Literal["ok", "failed", "timeout", "refused", "cancelled"]
"""What a command came to, as far as its node is to blame.

`ok`: the node answered; the error of a handler that says it is not worth a retry is an answer too, and the
caller's own affair. `failed`: the node died, broke, or raised what another node may not. `timeout`: no
answer in time. `refused`: it had no room. `cancelled`: the caller lost interest. The last two say nothing
about the node's health.
"""


@dataclass(frozen=True, slots=True)
class RouterStats:
    """What a router has done since it was made; each number only grows.

    Attributes:
        chosen: nodes chosen.
        nobody: picks that found no candidate.
        all_busy: picks that found every candidate full.
        refused: commands that a node refused for want of room.
        ejected: ejections.
        ejections_held: ejections that did not happen, because too many nodes were out already.
        returned: nodes taken back after an ejection.
        pools_built: questions asked for the first time, or again after they were dropped.
        pools_dropped: questions dropped to make room for others.
    """

    chosen: int
    nobody: int
    all_busy: int
    refused: int
    ejected: int
    ejections_held: int
    returned: int
    pools_built: int
    pools_dropped: int


class Router:
    """The choices of one caller: pure, single-threaded, fed with events.

    It promises:

    - `pick` looks at copies in memory alone, and with the default strategy takes the same time whatever the
      number of nodes. The first pick of a new question (capability, version range, selector, namespace) looks
      at every node that has the capability; `max_pools` questions are kept ready, the least recently asked is
      dropped.
    - With `least_loaded` the node picked has the least `Load` of all candidates with room, exactly.
    - A node is a candidate when it has the capability, matches, is ready or busy, and is not ejected. When
      there is no such node at all, those that are suspect or of unknown state are asked. Full ones are
      candidates without room.
    - A new `uid` under a known key is a new node: what was counted of the old one is forgotten.

    It does not promise that the node still has room when the command arrives: other callers choose too. The
    node then refuses with its true load (`done(..., "refused", load=...)`), and the caller picks again with
    that key in `exclude`.

    Example:
        router = Router()
        router.update(record)                      # for each event of the informer
        node = router.pick("write_article")
        router.sent(node.key, uid=node.uid)
        ...
        router.done(node.key, "ok", load=(1, 0, 3, 17), duration=0.8, uid=node.uid)

    Attributes:
        lagging: set while the caller's own loop runs late: failures and time-outs then blame nobody.
    """

    def __init__(
        self,
        *,
        strategy: str = "least_loaded",
        now: Callable[[], float] = boottime,
        rng: random.Random | None = None,
        ejection: EjectionPolicy | None = EjectionPolicy(),  # noqa: B008 - frozen, shared on purpose
        max_pools: int = 256,
    ) -> None:
        """Make a router that knows no node yet.

        Args:
            strategy: what chooses where `pick` names nothing else.
            now: seconds on a clock that only goes forward.
            rng: where chance comes from.
            ejection: when failing nodes are left out; None never leaves one out.
            max_pools: how many different questions are kept ready.

        Raises:
            ConfigError: there is no such strategy.
        """
        self.lagging = False
        self._now = now
        self._rng = rng if rng is not None else random.Random()  # noqa: S311 - spreads load, guards nothing
        self._policy = ejection
        self._pools = Pools(strategy, max_pools)
        self._accounts: dict[str, Account] = {}
        self._orders = count()
        self._ejected: dict[str, Account] = {}
        self._failing: set[str] = set()
        self._next_return = inf
        self._chosen = self._nobody = self._all_busy = self._refused = 0
        self._ejections = self._held = self._returned = 0

    # What the informer says.

    def update(self, node: Routable) -> None:
        """Take in a node that is new or has changed."""
        key = node.key
        account = self._accounts.get(key)
        if account is not None and account.node.uid != node.uid:
            self.remove(key)
            account = None
        if account is None:
            account = self._accounts[key] = Account(node, next(self._orders))
        else:
            self._pools.withdraw(account, account.node.capabilities.keys() - node.capabilities.keys())
            self._pools.forget_withheld(account)
            account.node = node
        account.count.status(node.active_tasks, node.capacity, node.seq)
        self._pools.enter(account)

    def remove(self, key: str) -> None:
        """Forget a node."""
        account = self._accounts.pop(key, None)
        if account is not None:
            self._pools.withdraw(account, account.node.capabilities)
            self._pools.forget_withheld(account)
            self._ejected.pop(key, None)
            self._failing.discard(key)

    def suspect(self, key: str, reason: str = "silent") -> None:
        """Make a node a candidate of last resort, until `trust` or its next incarnation."""
        account = self._accounts.get(key)
        if account is not None:
            account.suspicion = reason
            self._pools.enter(account)

    def trust(self, key: str) -> None:
        """Take a suspicion back."""
        account = self._accounts.get(key)
        if account is not None and account.suspicion is not None:
            account.suspicion = None
            self._pools.enter(account)

    # What the caller does.

    def pick(
        self,
        capability: str,
        *,
        version: VersionRange | str | None = None,
        selector: Selector | str | None = None,
        namespace: str | None = None,
        strategy: str | None = None,
        sticky_key: str | None = None,
        exclude: Collection[str] = (),
    ) -> Routable:
        """Choose the node for one command.

        Args:
            capability: what is to be done.
            version: range that the capability's version must lie in.
            selector: what the node's labels and fields must satisfy.
            namespace: where the node must be; None is everywhere.
            strategy: name of a strategy; None is `sticky` with a `sticky_key`, else the router's own.
            sticky_key: what calls that belong together share.
            exclude: keys of nodes that were tried before. A set, where there are more than a few.

        Raises:
            NoCapableNodesError: there is no candidate; it says why of each node that has the capability.
            AllNodesBusyError: there are candidates, and none has room.
            ConfigError: there is no such strategy, or `sticky` has no key.
            SelectorError: the selector or the version range cannot be read.
        """
        question = (capability, version, selector, namespace)
        node = self._choose(question, strategy, sticky_key, exclude)
        if node is None:
            pool = self._pools.pool(question)
            error = refusal(pool, self._table(question, exclude), exclude)
            if pool.asked(exclude) is None:
                self._nobody += 1
            else:
                self._all_busy += 1
            raise error
        return node

    def choose(
        self,
        capability: str,
        *,
        version: VersionRange | str | None = None,
        selector: Selector | str | None = None,
        namespace: str | None = None,
        strategy: str | None = None,
        sticky_key: str | None = None,
        exclude: Collection[str] = (),
    ) -> Routable | None:
        """Do as `pick`, but return None where it raises that nobody can or has room: much cheaper."""
        return self._choose((capability, version, selector, namespace), strategy, sticky_key, exclude)

    def sent(self, key: str, *, uid: str | None = None) -> None:
        """Count one command of this caller as outstanding at the node.

        Args:
            key: the node.
            uid: the incarnation it was sent to; for another one than today's nothing is counted.
        """
        account = self._accounts.get(key)
        if account is not None and (uid is None or uid == account.node.uid):
            account.count.mine += 1
            account.place()

    def done(
        self,
        key: str,
        outcome: Outcome,
        *,
        load: Report | None = None,
        duration: float | None = None,
        blame: bool = True,
        uid: str | None = None,
    ) -> None:
        """Count one command as outstanding no longer, and learn from what it came to.

        Args:
            key: the node.
            outcome: what it came to.
            load: what the answer says of the node: active tasks, this caller's among them, capacity, seq.
            duration: seconds from sending to the answer.
            blame: whether the node answers for a failure; False where the caller knows better.
            uid: the incarnation it was sent to; for another one than today's nothing is counted.
        """
        account = self._accounts.get(key)
        if account is None or (uid is not None and uid != account.node.uid):
            return
        if account.count.mine:
            account.count.mine -= 1
        if load is not None:
            account.count.answered(load)
        policy = self._policy
        if outcome == "ok":
            self._failing.discard(key)
            if duration is not None:
                account.took(duration)
            if policy is not None:
                account.record.succeeded(policy)
                account.count.trial = False
        elif outcome == "refused":
            self._refused += 1
        elif outcome != "cancelled" and policy is not None:
            blamed = blame and not self.lagging
            if blamed:
                self._failing.add(key)
            if blamed and account.record.failed(policy, trial=account.count.trial):
                self._eject(account, policy)
        account.place()

    def full(self, key: str, load: Report, *, uid: str | None = None) -> None:
        """Take in the true load of a node, learnt aside from the end of a command.

        A refusal of a command that was counted by `sent` is `done(key, "refused", load=load)`.
        """
        account = self._accounts.get(key)
        if account is not None and (uid is None or uid == account.node.uid):
            account.count.answered(load)
            account.place()

    # What can be asked.

    def explain(
        self,
        capability: str,
        *,
        version: VersionRange | str | None = None,
        selector: Selector | str | None = None,
        namespace: str | None = None,
        exclude: Collection[str] = (),
    ) -> list[PassedOver]:
        """Return every node that has the capability, in any version, offered or withdrawn, with exactly one reason each.

        Candidates with room come first, the least loaded first; the others follow by name.

        Raises:
            SelectorError: the selector or the version range cannot be read.
        """
        self._readmit()
        return self._table((capability, version, selector, namespace), exclude)

    def candidates(
        self,
        capability: str,
        *,
        version: VersionRange | str | None = None,
        selector: Selector | str | None = None,
        namespace: str | None = None,
    ) -> list[Routable]:
        """Return every candidate, with room or without: those of last resort and the ejected ones, too."""
        pool = self._pools.pool((capability, version, selector, namespace))
        return [seat.what.node for tier in (pool.first, pool.last) for seat in tier.members.values()]

    def resting(
        self,
        capability: str,
        *,
        version: VersionRange | str | None = None,
        selector: Selector | str | None = None,
        namespace: str | None = None,
    ) -> list[Routable]:
        """Return those who would be candidates if they took work: draining or starting ones, and those who withdrew it."""
        pool = self._pools.pool((capability, version, selector, namespace))
        able = [
            account.node
            for account in self._pools.capable(capability).values()
            if account.node.state in ("draining", "starting")
        ]
        able += [
            account.node
            for account in self._pools.withheld(capability).values()
            if account.node.state != "offline"
        ]
        return [node for node in able if pool.mismatch(node) is None]

    def free(
        self,
        capability: str,
        *,
        version: VersionRange | str | None = None,
        selector: Selector | str | None = None,
        namespace: str | None = None,
    ) -> int:
        """Return how many more commands the candidates take: 0 when they are full, or there are none."""
        if self._ejected:
            self._readmit()
        tier = self._pools.pool((capability, version, selector, namespace)).asked()
        return 0 if tier is None else tier.room

    def filled(
        self,
        capability: str,
        *,
        version: VersionRange | str | None = None,
        selector: Selector | str | None = None,
        namespace: str | None = None,
    ) -> list[tuple[Routable, Load]]:
        """Return the candidates that are full for all this caller knows, and not of its own work alone.

        They may have room by now: of what ends there this caller hears only when something of its own does, or by a report.
        """
        if self._ejected:
            self._readmit()
        tier = self._pools.pool((capability, version, selector, namespace)).asked()
        if tier is None:
            return []
        loads = ((seat.what.node, seat.what.count.load()) for seat in tier.candidates() if not seat.spare)
        return [(node, load) for node, load in loads if load.others and load.active >= load.capacity > 0]

    def load(self, key: str) -> Load | None:
        """Return the load of a node as this caller sees it; None for an unknown node."""
        account = self._accounts.get(key)
        return None if account is None else account.count.load()

    def ejected(self) -> dict[str, float]:
        """Return the nodes that are left out, with the seconds until each is tried again."""
        self._readmit()
        now = self._now()
        return {key: (account.record.until or now) - now for key, account in self._ejected.items()}

    @property
    def failing(self) -> Collection[str]:
        """The keys of nodes whose last word was a failure: not where one would try again."""
        return self._failing

    @property
    def stats(self) -> RouterStats:
        """Counters, for metrics."""
        return RouterStats(
            chosen=self._chosen,
            nobody=self._nobody,
            all_busy=self._all_busy,
            refused=self._refused,
            ejected=self._ejections,
            ejections_held=self._held,
            returned=self._returned,
            pools_built=self._pools.built,
            pools_dropped=self._pools.dropped,
        )

    def __len__(self) -> int:
        """Return how many nodes are known."""
        return len(self._accounts)

    def _choose(
        self, question: Question, strategy: str | None, key: str | None, exclude: Collection[str]
    ) -> Routable | None:
        if self._ejected:
            self._readmit()
        pool = self._pools.pool(question)
        if strategy is None and key is not None:
            strategy = "sticky"
        chooser = pool.default if strategy is None else pool.strategy(strategy)
        seat = chooser.choose(pool.first, self._rng, key, exclude)
        if seat is None:
            if pool.last.members and pool.asked(exclude) is pool.last:
                seat = chooser.choose(pool.last, self._rng, key, exclude)
            if seat is None:
                return None
        self._chosen += 1
        account: Account = seat.what
        return account.node

    def _table(self, question: Question, exclude: Collection[str]) -> list[PassedOver]:
        pools = self._pools
        return table(
            pools.pool(question),
            pools.capable(question[0]).values(),
            pools.withheld(question[0]).values(),
            self._now(),
            exclude,
        )

    # Ejection.

    def _eject(self, account: Account, policy: EjectionPolicy) -> None:
        if any(seat.tier is not None and not seat.tier.may_eject(policy.share) for seat in account.seats):
            self._held += 1
            return
        until = self._now() + policy.duration(account.record.strikes, self._rng.random())
        account.record.eject(until)
        self._ejected[account.node.key] = account
        self._next_return = min(self._next_return, until)
        self._ejections += 1
        for seat in account.seats:
            if seat.tier is not None:
                seat.tier.eject(seat, out=True)

    def _readmit(self) -> None:
        """Take back those whose time is over."""
        now = self._now()
        if now < self._next_return:
            return
        soonest = inf
        for key, account in list(self._ejected.items()):
            until = account.record.until
            if until is not None and until > now:
                soonest = min(soonest, until)
                continue
            del self._ejected[key]
            account.record.back()
            account.count.trial = True
            self._returned += 1
            for seat in account.seats:
                if seat.tier is not None:
                    seat.tier.eject(seat, out=False)
            account.place()
        self._next_return = soonest
