"""Moves a registry from one store to another while both are in use: copies, follows, verifies. Never writes the source."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from roster._clock import boottime
from roster.errors import ConfigError, StoreUnavailableError
from roster.registry.keys import NODES
from roster.registry.mirror import Mirror
from roster.registry.mirroring import Image, keys_of, mirrored_from
from roster.registry.side import list_all
from roster.store.base import Store
from roster.store.url import DEFAULT_PREFIX, StoreUrl

T = TypeVar("T")

# Both sides are compared again for so long, while what differs is what the source has just changed.
VERIFY_PATIENCE = 30.0
LEAVE_TIMEOUT = 5.0


@dataclass(slots=True)
class Summary:
    """How far a migration came, and what is known of both sides.

    Attributes:
        source: the store that was read, without secrets.
        target: the store that was written.
        dry_run: nothing was written; `copied` says what would be.
        verified: both sides were compared after the copy, and every key of the source was accounted for.
        passports: nodes of the source.
        others: keys of the source that are no node's.
        mirrored: living nodes whose status is mirrored (`follow` only).
        copied: nodes and other keys that were written.
        unchanged: how many were in the target already.
        removed: those that vanished from the source during the copy and were taken away in the target as well.
        theirs: those left alone, because their nodes are registered in the target themselves.
        faulty: documents that the registry cannot use, with the reason; they are copied as they are.
        refused: keys that the target does not take, with the reason.
        different: keys that are not the same on both sides.
        only_in_target: how many keys the target has beyond the source's; they are left alone.
    """

    source: str
    target: str
    dry_run: bool = False
    verified: bool = False
    passports: int = 0
    others: int = 0
    mirrored: int = 0
    copied: list[str] = field(default_factory=list)
    unchanged: int = 0
    removed: list[str] = field(default_factory=list)
    theirs: list[str] = field(default_factory=list)
    faulty: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    different: list[str] = field(default_factory=list)
    only_in_target: int = 0

    @property
    def ok(self) -> bool:
        """Whether everything that is to be there is there (or, in a dry run, could be)."""
        return (self.verified or self.dry_run) and not self.refused and not self.different

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"ok": self.ok, **{name: getattr(self, name) for name in self.__slots__}}


@dataclass(frozen=True, slots=True)
class Hooks:
    """Whoever wants to know how it goes.

    Attributes:
        begun: called with the number of units to look at.
        worked: called after each piece of work with the number that has been looked at so far.
        level: called with the summary when the copy has caught up and was compared.
        moved: called with each node that has registered in the target itself, and how many living ones are still mirrored.
    """

    begun: Callable[[int], None] = lambda _: None
    worked: Callable[[int], None] = lambda _: None
    level: Callable[[Summary], None] = lambda _: None
    moved: Callable[[str, int], None] = lambda _, __: None


class Migration:
    """One migration.

    Args:
        source: where from; only read.
        target: where to.
        name: what the source is called in mirrored statuses, see `name_of`; without it the store's URL.
        follow: mirror the statuses of living nodes too, and go on until cancelled.
        retention: seconds that the passport of a node that never comes over stays in the target.
        ttl: seconds that mirrored statuses outlive this process, should it be killed.
        hooks: whom to tell how it goes.
        now: the clock that decides.

    Example:
        summary = await Migration(old, new, retention=3600).run()
        assert summary.ok, summary.different
    """

    def __init__(
        self,
        source: Store,
        target: Store,
        *,
        name: str = "",
        follow: bool = False,
        retention: float = 3600.0,
        ttl: float = 30.0,
        hooks: Hooks | None = None,
        now: Callable[[], float] = boottime,
    ) -> None:
        self._hooks = hooks or Hooks()
        self._mirror = Mirror(
            source,
            target,
            name=name or source.url,
            live=follow,
            retention=retention,
            ttl=ttl,
            on_work=lambda: self._hooks.worked(len(self._mirror.tally.verdicts)),
            on_theirs=lambda unit: self._hooks.moved(unit, self.summary().mirrored),
            now=now,
        )
        self._now = now
        self._verified = False
        self._different: list[str] = []

    async def plan(self) -> Summary:
        """Look at both sides and return what would be copied; write nothing.

        Raises:
            StoreError: a side cannot be read.
        """
        await self._mirror.begin()
        self._mirror.survey()
        summary = self.summary()
        summary.dry_run = True
        return summary

    async def run(self) -> Summary:
        """Copy until both sides are level, compare them, and return what came of it; with `follow` go on until cancelled.

        Raises:
            StoreError: a side cannot be read or written, for too long, or was wiped or restored meanwhile.
        """
        mirror = self._mirror
        await mirror.begin()
        self._hooks.begun(sum(1 for _ in mirror.source.image))
        try:
            return await _beside(mirror.run(), self._body())
        except asyncio.CancelledError:
            # Whoever is killed leaves its statuses to run out; whoever is asked to end takes them along.
            try:
                async with asyncio.timeout(LEAVE_TIMEOUT):
                    await mirror.leave()
            except (StoreUnavailableError, TimeoutError):
                pass  # they run out by themselves
            raise

    async def _body(self) -> Summary:
        await self._mirror.settled()
        await self._verify()
        summary = self.summary()
        self._hooks.level(summary)
        if self._mirror.live:
            await asyncio.get_running_loop().create_future()
        return summary

    async def _verify(self) -> None:
        """Compare both sides, listed anew; what differs is copied and compared again until nothing does."""
        mirror = self._mirror
        source, target = Image(), Image()
        source.replace(*await list_all(mirror.source.store))
        target.replace(*await list_all(mirror.target.store))
        found = self._unlike(source, source, target)
        listed = {unit: document.mod_revision for unit in found if (document := source.get(unit).document)}
        until, pause = self._now() + VERIFY_PATIENCE, 0.01
        while found and self._now() < until:
            await mirror.settled(found)
            for unit in found:
                await mirror.source.refresh(unit)
                await mirror.target.refresh(unit)
            # One that changes faster than it is copied is level when the copy has come to what was listed.
            found = {
                unit
                for unit in self._unlike(found, mirror.source.image, mirror.target.image)
                if not mirror.has_reached(unit, listed.get(unit, 0))
            }
            if found:
                await asyncio.sleep(pause)
                pause = min(1.0, pause * 2)
        self._different = sorted(keys_of(unit)[0] for unit in found)
        self._verified = not found

    def _unlike(self, units: Iterable[str], source: Image, target: Image) -> set[str]:
        """Return those that are not what they should be, without those that the target does not take."""
        return {
            unit
            for unit in units
            if keys_of(unit)[0] not in self._mirror.tally.refused
            and self._mirror.judge(unit, source.get(unit), target.get(unit)).steps
        }

    def summary(self) -> Summary:
        """Return how far it has come."""
        mirror, tally = self._mirror, self._mirror.tally
        source, target = mirror.source.image, mirror.target.image
        present = [unit for unit in source if source.get(unit).document is not None]
        passports = sum(1 for unit in present if keys_of(unit)[0].startswith(NODES))
        return Summary(
            source=mirror.source.store.url,
            target=mirror.target.store.url,
            verified=self._verified,
            passports=passports,
            others=len(present) - passports,
            mirrored=sum(1 for unit in target if mirrored_from(target.get(unit).status) == mirror.name),
            copied=sorted(unit for unit in present if unit in tally.copied),
            unchanged=sum(
                1 for unit in present if tally.verdicts.get(unit) == "same" and unit not in tally.copied
            ),
            removed=sorted(tally.removed),
            theirs=sorted(unit for unit, verdict in tally.verdicts.items() if verdict == "theirs"),
            faulty=dict(sorted(tally.faulty.items())),
            refused=dict(sorted(tally.refused.items())),
            different=self._different,
            only_in_target=sum(
                1
                for unit in target
                if target.get(unit).document is not None and source.get(unit).document is None
            ),
        )


def name_of(url: StoreUrl) -> str:
    """Return what a registry is called, without secrets: registries under several prefixes of one server differ."""
    prefix = _prefix(url)
    return url.display if prefix == DEFAULT_PREFIX else f"{url.display}/?prefix={prefix}"


async def need_two(source: Store, target: Store, from_url: StoreUrl, to_url: StoreUrl) -> None:
    """Return if two stores are not one, or are two registries that lie apart in one.

    Raises:
        ConfigError: they are one registry, or one lies inside the other.
        StoreError: one of them cannot be asked.
    """
    one, other = await source.info(), await target.info()
    if (one.engine, one.cluster_id) != (other.engine, other.cluster_id):
        return
    here, there = _prefix(from_url), _prefix(to_url)
    if here == there:
        raise ConfigError(f"both URLs lead to one registry, {source.url}: name another target")
    if f"{here}/".startswith(f"{there}/") or f"{there}/".startswith(f"{here}/"):
        raise ConfigError(
            f"one registry would lie inside the other: {here} and {there} of {source.url}; choose prefixes that lie apart"
        )


def _prefix(url: StoreUrl) -> str:
    return DEFAULT_PREFIX if url.engine in ("sqlite", "memory") else url.prefix


async def _beside(background: Awaitable[None], work: Awaitable[T]) -> T:
    """Return what `work` returns; `background` runs as long, and what ends it ends both."""
    behind, front = asyncio.ensure_future(background), asyncio.ensure_future(work)
    try:
        await asyncio.wait({behind, front}, return_when=asyncio.FIRST_COMPLETED)
        if behind.done() and not behind.cancelled():
            error = behind.exception()
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            if error is not None:
                raise error
        return front.result()
    finally:
        behind.cancel()
        front.cancel()
        await asyncio.wait({behind, front})
