"""Keeps one registry a copy of another: follows both by list + watch, and writes what differs to the target."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice

from roster._clock import boottime
from roster.errors import (
    ConflictError,
    LeaseLostError,
    LimitError,
    RevisionCompactedError,
    StoreUnavailableError,
)
from roster.registry.mirroring import Bond, Plan, Unit, Verdict, View, Write, decide, keys_of, uid_of
from roster.registry.side import Outage, Side
from roster.store.base import Delete, Entry, Lease, Op, Put, Store

AT_ONCE = 16
FIRST_DELAY = 0.1
LONGEST_DELAY = 5.0
_MAX_ROUNDS = 20


@dataclass(slots=True)
class Tally:
    """What a mirror has done and seen so far; units by their names.

    Attributes:
        verdicts: the newest of each unit.
        copied: units written at least once.
        removed: units taken away, because they vanished from the source meanwhile.
        faulty: documents that the registry cannot use, each with the reason; they are copied as they are.
        refused: keys that the target does not take, each with the reason.
    """

    verdicts: dict[str, Verdict] = field(default_factory=dict)
    copied: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    faulty: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


class Mirror:
    """Copies every key under `/ai-team/` from one store to another, and goes on with what changes. The source is only read.

    Args:
        source: where from.
        target: where to; nothing is written there on a key that somebody else holds.
        name: what the source is called in mirrored statuses; no two registries that are mirrored to one target share it.
        live: mirror the statuses of living nodes too, under a lease of this mirror's own.
        retention: seconds of the long lease that copied passports are bound to.
        ttl: seconds of the short lease that mirrored statuses are bound to.
        on_work: called after each piece of work.
        on_theirs: called with a node that has registered in the target itself.
        now: the clock that decides.
        rng: draws from 0 to 1, for jitter.
    """

    def __init__(
        self,
        source: Store,
        target: Store,
        *,
        name: str,
        live: bool,
        retention: float,
        ttl: float,
        on_work: Callable[[], None] = lambda: None,
        on_theirs: Callable[[str], None] = lambda _: None,
        now: Callable[[], float] = boottime,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self.source = Side(source, Outage(source.url, now=now, for_ever=live))
        self.target = Side(target, Outage(target.url, now=now, for_ever=live))
        self.tally = Tally()
        self.name = name
        self.live = live
        self._ttls: dict[Bond, float] = {"long": retention, "live": ttl}
        self._writes = Outage(target.url, now=now, for_ever=live)
        self._on_work = on_work
        self._on_theirs = on_theirs
        self._now = now
        self._rng = rng
        self._leases: dict[Bond, Lease] = {}
        self._granting = asyncio.Lock()
        self._dirty: dict[str, None] = {}
        self._woken = asyncio.Event()
        self._awaited: list[tuple[set[str], asyncio.Future[None]]] = []
        self._adopt: set[str] = set()
        # The revision of each document in the target that is no surprise, and whether this run wrote it.
        self._known: dict[str, tuple[int, bool]] = {}
        self._from: dict[str, int] = {}  # the source's revision of each document that this run has copied
        self._unsure: set[str] = set()  # written without an answer: what is found there may be ours
        self._gone: dict[str, bytes] = {}
        self._theirs: dict[str, str] = {}

    # -- life --------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """List both sides.

        Raises:
            StoreError: one of them cannot be read.
        """
        self._stir(await self.source.list())
        self._stir(await self.target.list())
        for unit in self.target.image:
            document = self.target.image.get(unit).document
            if document is not None:
                self._known[unit] = (document.mod_revision, False)
        if self.live:
            self._adopt = set(self.source.image)

    def survey(self) -> None:
        """Note what would be done about each unit, and do nothing."""
        for unit in self.source.image:
            plan = self.judge(unit, self.source.image.get(unit), self.target.image.get(unit))
            self._note(unit, plan)
            if plan.verdict == "copy":
                self.tally.copied.add(unit)

    async def run(self) -> None:
        """Work until cancelled.

        Raises:
            StoreError: a side is out of reach for too long (never, when `live`), or was wiped or restored.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(self.source), name="roster-mirror-source")
            tasks.create_task(self._follow(self.target), name="roster-mirror-target")
            tasks.create_task(self._work(), name="roster-mirror-work")
            tasks.create_task(self._keep_leases(), name="roster-mirror-leases")

    async def settled(self, units: Iterable[str] = ()) -> None:
        """Return when everything that is to be done now has been done once; `units` are looked at in any case."""
        self._stir(set(units))
        if self._dirty:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._awaited.append((set(self._dirty), done))
            await done

    async def leave(self) -> None:
        """Take the mirrored statuses away: nobody follows their nodes any more. The passports stay for their retention."""
        lease = self._leases.get("live")
        if lease is not None:
            await lease.revoke()

    # -- what changed ------------------------------------------------------------------------------

    async def _follow(self, side: Side) -> None:
        failures = 0
        while True:
            began = self._now()
            try:
                await side.follow(self._stir)
            except (StoreUnavailableError, RevisionCompactedError) as error:
                failures = 0 if self._now() - began > LONGEST_DELAY else failures + 1
                if isinstance(error, StoreUnavailableError):
                    side.outage.goes_on(error)
            await asyncio.sleep(min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(failures, 10)) * self._rng())
            try:
                self._stir(await side.list())
            except StoreUnavailableError as error:
                side.outage.goes_on(error)

    def _stir(self, units: Iterable[str]) -> None:
        for unit in units:
            self._dirty[unit] = None
        if self._dirty:
            self._woken.set()

    # -- work --------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            await self._woken.wait()
            units = list(islice(self._dirty, AT_ONCE))
            for unit in units:
                del self._dirty[unit]
            if not self._dirty:
                self._woken.clear()
            ended = await asyncio.gather(*map(self._reconcile, units), return_exceptions=True)
            again = []
            silent: StoreUnavailableError | None = None
            for unit, error in zip(units, ended, strict=True):
                if isinstance(error, StoreUnavailableError):
                    silent = error
                    again.append(unit)
                elif isinstance(error, BaseException):
                    raise error
            self._tell(set(units).difference(again))
            self._stir(again)
            self._on_work()
            if silent is None:
                self._writes.over()
            else:
                self._writes.goes_on(silent)
                await asyncio.sleep(FIRST_DELAY * (1 + self._rng()))

    def _tell(self, done: set[str]) -> None:
        for waiting, future in self._awaited:
            waiting -= done
            if not waiting and not future.done():
                future.set_result(None)
        self._awaited = [one for one in self._awaited if not one[1].done()]

    async def _reconcile(self, unit: str) -> None:
        """Make the target's unit what it should be.

        Raises:
            StoreUnavailableError: unconfirmed; to be done again.
        """
        for _ in range(_MAX_ROUNDS):
            self._notice(unit)
            source, target = self.source.image.get(unit), self.target.image.get(unit)
            plan = self.judge(unit, source, target, adopt=unit in self._adopt)
            self._note(unit, plan)
            if not plan.steps:
                break
            ops = [await self._op(step) for step in plan.steps]
            try:
                revision = await self.target.store.transact(plan.checks, ops)
            except ConflictError:
                await self.target.refresh(unit)  # somebody wrote between our looking and our writing
                continue
            except LeaseLostError:
                await self._renew_leases()
                continue
            except StoreUnavailableError:
                self._unsure.add(unit)
                raise
            except LimitError as error:
                self.tally.refused[keys_of(unit)[0]] = str(error)
                break
            self._wrote(unit, ops, revision)
            self._from[unit] = 0 if source.document is None else source.document.mod_revision
            self.tally.refused.pop(keys_of(unit)[0], None)
            (self.tally.copied if plan.verdict == "copy" else self.tally.removed).add(unit)
            break
        else:
            raise StoreUnavailableError(
                f"the keys of {unit} in {self.target.store.url} are being written all the time: find out who writes them"
            )
        self._adopt.discard(unit)

    def judge(self, unit: str, source: Unit, target: Unit, *, adopt: bool = False) -> Plan:
        """Return what is to be done about a unit that looks like this on both sides."""
        if source.document is not None:
            self._gone[unit] = source.document.value
        view = View(
            name=self.name,
            live=self.live,
            leases={bond: self._lease_id(bond) for bond in self._ttls},
            adopt=adopt,
            ours=self._known.get(unit, (0, False))[1],
            gone=self._gone.get(unit),
            theirs=unit in self._theirs and self._theirs[unit] == uid_of(source.document),
        )
        return decide(unit, source, target, view)

    def has_reached(self, unit: str, revision: int) -> bool:
        """Return whether the target's document is one that this run copied, as new as `revision` of the source or newer."""
        found = self.target.image.get(unit).document
        if found is None or self._known.get(unit) != (found.mod_revision, True):
            return False
        return self._from.get(unit, 0) >= revision

    def _notice(self, unit: str) -> None:
        """Learn who else writes this unit in the target: what somebody else has written there since is theirs."""
        source, found = self.source.image.get(unit).document, self.target.image.get(unit).document
        if found is None:
            self._known.pop(unit, None)
            if self._theirs.get(unit) == "":
                del self._theirs[unit]
        elif found.mod_revision != self._known.get(unit, (0, False))[0]:
            unsure = unit in self._unsure
            self._known[unit] = (found.mod_revision, unsure)
            if not unsure and source is not None and source.value != found.value:
                uid = uid_of(source)
                # Another mirror of the same source writes other bytes under the same uid; a registration never does.
                if not uid or uid != uid_of(found):
                    self._theirs[unit] = uid
        self._unsure.discard(unit)

    def _note(self, unit: str, plan: Plan) -> None:
        key, _ = keys_of(unit)
        before = self.tally.verdicts.get(unit)
        self.tally.verdicts[unit] = plan.verdict
        if plan.fault:
            self.tally.faulty[key] = plan.fault
        else:
            self.tally.faulty.pop(key, None)
        if plan.verdict == "theirs" and before not in (None, "theirs"):
            self._on_theirs(unit)

    async def _op(self, step: Write | Delete) -> Op:
        if isinstance(step, Delete):
            return step
        lease = None if step.bond == "none" else (await self._lease(step.bond)).id
        return Put(step.key, step.value, lease)

    def _wrote(self, unit: str, ops: Iterable[Op], revision: int) -> None:
        for op in ops:
            if isinstance(op, Delete):
                self.target.image.drop(op.key)
                continue
            self.target.image.put(Entry(op.key, op.value, revision, revision, op.lease))
            if op.key == keys_of(unit)[0]:
                self._known[unit] = (revision, True)

    # -- leases ------------------------------------------------------------------------------------

    def _lease_id(self, bond: Bond) -> str | None:
        lease = self._leases.get(bond)
        return None if lease is None else lease.id

    async def _lease(self, bond: Bond) -> Lease:
        async with self._granting:
            if bond not in self._leases:
                self._leases[bond] = await self.target.store.grant(self._ttls[bond], lingering=bond == "long")
            return self._leases[bond]

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(min(self._ttls.values()) / 3 * (0.9 + 0.1 * self._rng()))
            try:
                await self._renew_leases()
            except StoreUnavailableError as error:
                self._writes.goes_on(error)

    async def _renew_leases(self) -> None:
        for bond, lease in list(self._leases.items()):
            try:
                await lease.keep_alive()
            except LeaseLostError:
                # What was bound to it is gone, or will be: bind it to the next one.
                if self._leases.get(bond) is lease:
                    del self._leases[bond]
                    self._adopt = set(self.source.image) if self.live else set()
                    self._stir(self.source.image)
