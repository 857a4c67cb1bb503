"""The same team for tests that are not async: the same names, without `async` and `await`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, TypeVar

from roster._loops import LoopThread
from roster.node import Node
from roster.orchestrator import CallAnswer, NodeAnswer
from roster.passport.document import PassportLike
from roster.testing.ledger import PATIENCE, Asked, Ledger
from roster.testing.member import Member
from roster.testing.team import TTL, Team

T = TypeVar("T")


class SyncMember:
    """A node of a `SyncTeam`; see `Member`, whose names and meanings these are."""

    def __init__(self, team: SyncTeam, member: Member) -> None:
        self._team = team
        self._member = member

    def __repr__(self) -> str:
        return repr(self._member)

    @property
    def node(self) -> Node:
        """The `roster.Node` itself; it lives on the team's thread."""
        return self._member.node

    @property
    def name(self) -> str:
        """Its name."""
        return self._member.name

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return self._member.key

    @property
    def state(self) -> str:
        """What the registry says of it, `gone` when it is not listed."""
        return self._member.state

    @property
    def calls(self) -> list[Asked]:
        """The commands that reached it, in order."""
        return self._member.calls

    @property
    def params(self) -> list[dict[str, Any]]:
        """The params of those commands."""
        return self._member.params

    def asked(self, count: int = 1, *, timeout: float = PATIENCE) -> Asked:
        """Return the `count`th command that reached it, when it is there."""
        return self._team.run(self._member.asked(count, timeout=timeout))

    def started(self, count: int = 1, *, timeout: float = PATIENCE) -> Asked:
        """Return the `count`th command that it began to work on, when it has."""
        return self._team.run(self._member.started(count, timeout=timeout))

    def die(self, *, lease_ends: bool = True) -> None:
        """Die as by kill -9."""
        self._team.run(self._member.die(lease_ends=lease_ends))

    def leave(self, *, grace: float | None = None) -> bool:
        """Leave in good order; return whether all was finished in time."""
        return self._team.run(self._member.leave(grace=grace))

    def restart(self) -> None:
        """Start it again, after its death or departure."""
        self._team.run(self._member.restart())

    def fails(self, error: Exception | type[Exception] = RuntimeError, times: int = 1) -> None:
        """Have the next commands end with this error."""
        self._member.fails(error, times)

    @contextmanager
    def held(self) -> Iterator[SyncMember]:
        """Answer late: when the block is left."""
        with self._team.within(self._member.held()):
            yield self

    @contextmanager
    def silent(self) -> Iterator[SyncMember]:
        """Be silent, pings included, while its lease lives on."""
        with self._team.within(self._member.silent()):
            yield self

    @contextmanager
    def full(self) -> Iterator[SyncMember]:
        """Have no room."""
        with self._team.within(self._member.full()):
            yield self

    @contextmanager
    def unreachable(self) -> Iterator[SyncMember]:
        """Lose its queue on the bus."""
        with self._team.within(self._member.unreachable()):
            yield self

    @contextmanager
    def without_store(self) -> Iterator[SyncMember]:
        """Do not reach the registry, alone of all."""
        with self._team.within(self._member.without_store()):
            yield self


class SyncTeam:
    """A `Team` on a loop and a thread of its own. Arguments as for `Team`.

    Code under test that calls by itself connects to its URLs: `roster.sync.Orchestrator.connect(team.registry_url,
    team.bus_url)`. Async functions run on the team's thread, plain ones on others.

    Example:
        >>> with SyncTeam() as team:
        ...     team.add("write_article", lambda topic: {"article": topic})
        ...     assert team.call("write_article", {"topic": "bees"}) == {"article": "bees"}
    """

    def __init__(self, registry_url: str | None = None, bus_url: str | None = None, **options: Any) -> None:
        self._team = Team(registry_url, bus_url, **options)
        self._thread: LoopThread | None = None

    def __enter__(self) -> SyncTeam:
        self._thread = LoopThread("roster-testing").start()
        try:
            self.run(self._team.__aenter__())
        except BaseException:
            self._thread.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            try:
                thread.run(self._team.__aexit__(None, None, None))
            finally:
                thread.stop()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the team's loop and wait for it: for what of `Team` has no name here."""
        if self._thread is None:
            coroutine.close()
            raise RuntimeError("this team is not open: `with SyncTeam() as team:`")
        return self._thread.run(coroutine)

    @contextmanager
    def within(self, context: AbstractAsyncContextManager[object]) -> Iterator[None]:
        """Enter and leave an async context on the team's loop."""

        async def enter() -> None:
            await context.__aenter__()

        async def leave() -> None:
            await context.__aexit__(None, None, None)

        self.run(enter())
        try:
            yield
        finally:
            self.run(leave())

    @property
    def registry_url(self) -> str:
        """Opens this registry from anywhere in this process."""
        return self._team.registry_url

    @property
    def bus_url(self) -> str:
        """Opens this bus from anywhere in this process."""
        return self._team.bus_url

    @property
    def environment(self) -> dict[str, str]:
        """What to set so that code which connects by itself meets this team."""
        return self._team.environment

    @property
    def ledger(self) -> Ledger:
        """The commands that reached the nodes, in order."""
        return self._team.ledger

    def add(self, capability: str, function: Callable[..., Any], **options: Any) -> SyncMember:
        """Start a node that serves a function; options as for `Team.add`."""
        return SyncMember(self, self.run(self._team.add(capability, function, **options)))

    def add_node(
        self,
        node: Node | PassportLike,
        handlers: Mapping[str, Callable[..., Any]] | None = None,
        *,
        ttl: float = TTL,
    ) -> SyncMember:
        """Start a node of yours on this team; see `Team.add_node`."""
        return SyncMember(self, self.run(self._team.add_node(node, handlers, ttl=ttl)))

    def call(self, capability: str, params: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Call as `Orchestrator.call` does, with its options."""
        return self.run(self._team.call(capability, params, **options))

    def ask(self, capability: str, params: Mapping[str, Any] | None = None, **options: Any) -> CallAnswer:
        """Call, and return who did it and which tries it took."""
        return self.run(self._team.ask(capability, params, **options))

    def call_all(
        self, capability: str, params: Mapping[str, Any] | None = None, **options: Any
    ) -> list[NodeAnswer]:
        """Have every node do it that can."""
        return self.run(self._team.call_all(capability, params, **options))

    def settled(self) -> None:
        """Return when every copy of the registry shows what the store holds now."""
        self.run(self._team.settled())

    def until(
        self, condition: Callable[[], object], *, timeout: float = PATIENCE, what: str = "a condition"
    ) -> None:
        """Return when `condition()` is true; it is looked at after each change of the registry or the ledger."""
        self.run(self._team.until(condition, timeout=timeout, what=what))

    def advance(self, seconds: float) -> None:
        """Move the registry's time on."""
        self.run(self._team.advance(seconds))

    @contextmanager
    def store_away(self) -> Iterator[SyncTeam]:
        """Take the store away from everybody."""
        with self.within(self._team.store_away()):
            yield self

    @contextmanager
    def bus_away(self) -> Iterator[SyncTeam]:
        """Take the bus away from everybody who would send."""
        with self.within(self._team.bus_away()):
            yield self
