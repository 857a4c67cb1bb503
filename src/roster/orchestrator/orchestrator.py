"""`Orchestrator`: finds who can, routes, sends, waits, and fails over, so that an answer always comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Literal

from roster._clock import boottime
from roster._connecting import Connecting
from roster.bus import open_bus
from roster.bus.base import Bus, OutlivesCallers
from roster.errors import CallError, ConfigError, PassedOver
from roster.orchestrator import letters
from roster.orchestrator.answers import CallAnswer, NodeAnswer, StreamEvent
from roster.orchestrator.call import Call
from roster.orchestrator.control import Control, addressed
from roster.orchestrator.keyed import KeyedCall
from roster.orchestrator.orphans import Orphans
from roster.orchestrator.query import Query, SelectorLike
from roster.orchestrator.teamview import TeamView
from roster.passport import VersionRange
from roster.registry import NodeRecord, Registry

if TYPE_CHECKING:
    from roster.orchestrator.runs.cardfiles import CardLike
    from roster.orchestrator.runs.record import RunRecord
    from roster.orchestrator.runs.runs import NoNodes, Runs

DEFAULT_TIMEOUT = 30.0
CONTROL_TIMEOUT = 10.0
_STREAM_KEPT = 1000

OnBusy = Literal["wait", "fail"]


class Orchestrator:
    """The caller's side. Made by `Orchestrator.connect`; it belongs to the loop that opened it.

    Attributes:
        registry: where its nodes are.
        bus: how it reaches them.
        team: what it knows of them.

    Example:
        >>> async with Orchestrator.connect() as orchestrator:
        ...     result = await orchestrator.call("write_article", {"topic": "bees"}, timeout=30)
    """

    def __init__(
        self,
        registry: Registry,
        bus: Bus,
        *,
        strategy: str = "least_loaded",
        namespace: str | None = None,
        runs_url: str | None = None,
    ) -> None:
        self.registry = registry
        self.bus = bus
        self.team = TeamView(registry, bus, strategy=strategy, namespace=namespace)
        if isinstance(bus, OutlivesCallers):
            bus.on_orphan = Orphans(self).see_to
        self._runs: Runs | None = None
        self._runs_url = runs_url

    @staticmethod
    def connect(
        registry_url: str | None = None,
        bus_url: str | None = None,
        *,
        strategy: str = "least_loaded",
        namespace: str | None = None,
        runs_url: str | None = None,
    ) -> Connecting[Orchestrator]:
        """Open registry and bus.

        Args:
            registry_url: without it `ROSTER_REGISTRY`, else the user's SQLite file.
            bus_url: without it `ROSTER_BUS`, else the user's local bus.
            strategy: how to choose among nodes with room: `least_loaded`, `round_robin`, `random` or `sticky`.
            namespace: the caller's own, whose idempotency keys its calls use; without it that of the node whose handler
                calls, else `ROSTER_NAMESPACE`, else `default`.
            runs_url: the database of runs, `sqlite:///path` or `postgresql://...`; without it `ROSTER_RUNS`, else the user's
                SQLite file. It is opened at the first use.

        Returns:
            An object for `async with`; awaiting it gives an orchestrator that is closed with `close`.

        Raises:
            ConfigError: a URL, the strategy or the namespace is wrong.
        """

        async def opened() -> Orchestrator:
            async with AsyncExitStack() as undo:
                registry = await Registry.connect(registry_url)
                undo.push_async_callback(registry.close)
                bus = open_bus(bus_url)
                await bus.__aenter__()
                undo.push_async_callback(bus.close)
                made = Orchestrator(registry, bus, strategy=strategy, namespace=namespace, runs_url=runs_url)
                undo.pop_all()
                return made

        return Connecting(opened)

    # -- calling --------------------------------------------------------------------------------------------------

    async def call(
        self,
        capability: str,
        params: Mapping[str, Any] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        selector: SelectorLike = None,
        version: VersionRange | str | None = None,
        namespace: str | None = None,
        strategy: str | None = None,
        sticky_key: str | None = None,
        priority: int = 0,
        attempt_timeout: float | None = None,
        on_busy: OnBusy = "wait",
        on_progress: Callable[[NodeRecord, Mapping[str, Any]], None] | None = None,
        idempotency_key: str | None = None,
    ) -> Any:
        """Have one node do it and return its result.

        Args:
            capability: what is to be done.
            params: its input, a JSON object; held against the capability's input schema before anything is sent.
            timeout: seconds for everything, waiting for room and further tries included.
            selector: only nodes whose labels (or fields) match.
            version: only nodes whose capability has a version in this range, such as `>=1.2,<2`.
            namespace: only nodes of this namespace; None for all.
            strategy: another strategy than the orchestrator's own.
            sticky_key: for `sticky`: calls with one key meet one node, as long as it is there and has room.
            priority: 0 to 9; among commands that wait, higher goes first.
            attempt_timeout: seconds for one try; without it the capability's own `timeout`, else all that is left.
            on_busy: `wait` for room up to the deadline, or `fail` at once.
            on_progress: called on this loop with the node and the data of each progress event.
            idempotency_key: 1 to 255 bytes; the same key again brings the same answer without doing the work twice. One
                effect per key unless its executor died or stood still past its lease; one answer to the caller. The call
                waits for the node that the key belongs to, whatever `strategy` says. See docs/idempotency.md.

        Raises:
            NoCapableNodesError: nobody can do it; says of each node that has the capability why it was passed over.
            AllNodesBusyError: those who can had no room.
            InvalidParamsError: the params contradict the input schema.
            CallTimeoutError: the deadline passed.
            RemoteError: the handler raised.
            CallError: any other end; every one carries `outcome` and `attempts`.

        Example:
            >>> await orchestrator.call("write_article", {"topic": "bees"}, selector="role=writer", timeout=10)
        """
        answer = await self.ask(
            capability,
            params,
            timeout=timeout,
            selector=selector,
            version=version,
            namespace=namespace,
            strategy=strategy,
            sticky_key=sticky_key,
            priority=priority,
            attempt_timeout=attempt_timeout,
            on_busy=on_busy,
            on_progress=on_progress,
            idempotency_key=idempotency_key,
        )
        return answer.result

    async def ask(
        self, capability: str, params: Mapping[str, Any] | None = None, **options: Any
    ) -> CallAnswer:
        """Do as `call` does, and return who did it and which tries it took. `options` are those of `call`."""
        call = await self.prepare(capability, params, **options)
        result = await call.run()
        return CallAnswer(result, call.attempts[-1].node, tuple(call.attempts), boottime() - call.began)

    async def prepare(
        self,
        capability: str,
        params: Mapping[str, Any] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        selector: SelectorLike = None,
        version: VersionRange | str | None = None,
        namespace: str | None = None,
        strategy: str | None = None,
        sticky_key: str | None = None,
        priority: int = 0,
        attempt_timeout: float | None = None,
        on_busy: OnBusy = "wait",
        on_progress: Callable[[NodeRecord, Mapping[str, Any]], None] | None = None,
        idempotency_key: str | None = None,
    ) -> Call:
        """Make a call that is run by its `run`; the arguments are those of `call`."""
        query = Query.of(
            capability,
            selector=selector,
            version=version,
            namespace=namespace,
            strategy=strategy,
            sticky_key=sticky_key,
        )
        if not 0 <= priority <= 9:
            raise ConfigError(f"priority is 0 to 9, not {priority}")
        deadline = self.team.deadline(timeout)
        await self.team.start()
        call = Call(
            self.team,
            query,
            params if params is not None else {},
            deadline,
            attempt_timeout,
            priority,
            on_busy,
            on_progress,
        )
        if idempotency_key is not None:
            call.keyed = KeyedCall(call, idempotency_key, self.team.source_here())
        return call

    async def call_all(
        self,
        capability: str,
        params: Mapping[str, Any] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        selector: SelectorLike = None,
        version: VersionRange | str | None = None,
        namespace: str | None = None,
        priority: int = 0,
    ) -> list[NodeAnswer]:
        """Have every node do it that can (scatter), and return what each answered (gather), in order of name.

        A node that fails does not hurt the others: its answer carries the error. There is no failover here, each node is
        asked once.

        Raises:
            NoCapableNodesError: nobody can do it.
        """
        await self.team.start()
        query = Query.of(capability, selector=selector, version=version, namespace=namespace)
        nodes = await self.registry.find_by_capability(
            capability, selector=query.selector, version=query.version, namespace=namespace
        )
        if not nodes:
            # The router words the refusal, with its table.
            await self.pick(capability, selector=selector, version=version, namespace=namespace)

        async def one(node: NodeRecord) -> NodeAnswer:
            call = await self.prepare(
                capability,
                params,
                timeout=timeout,
                selector=selector,
                version=version,
                namespace=namespace,
                priority=priority,
            )
            try:
                return NodeAnswer(node.key, result=await call.once(node))
            except CallError as error:
                return NodeAnswer(node.key, error=error)

        return list(await asyncio.gather(*(one(node) for node in sorted(nodes, key=lambda node: node.key))))

    async def stream(
        self, capability: str, params: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncGenerator[StreamEvent, None]:
        """Call, and yield the progress events as they come, then one event of type `result`.

        Leaving the loop early takes the command back. `options` are those of `call`.

        Example:
            >>> async for event in orchestrator.stream("write_article", {"topic": "bees"}):
            ...     print(event.type, event.data)
        """
        # None ends it. A slow reader loses the oldest progress, never memory.
        events: asyncio.Queue[StreamEvent | None] = asyncio.Queue()

        def progress(node: NodeRecord, data: Mapping[str, Any]) -> None:
            if events.qsize() >= _STREAM_KEPT:
                events.get_nowait()
            events.put_nowait(StreamEvent("progress", node.key, dict(data)))

        call = await self.prepare(capability, params, on_progress=progress, **options)
        task = asyncio.ensure_future(call.run())
        task.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            result = await task
            yield StreamEvent("result", call.attempts[-1].node, result)
        finally:
            task.cancel()

    async def retry(
        self,
        letter: str,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        selector: SelectorLike = None,
        namespace: str | None = None,
        on_progress: Callable[[NodeRecord, Mapping[str, Any]], None] | None = None,
    ) -> CallAnswer:
        """Send a dead letter again; it is removed when its result has come, and stays whatever else happens.

        It goes to a node that is idle, or takes nothing more until it is, and runs there with nothing beside it; with a
        deadline of its own, and once, since it may do to that node what it did to the others. Its idempotency key goes
        with it, so that work which was done after all is not done again.

        Args:
            letter: the id of the command that was buried. Of several with this id the newest is sent.
            timeout: seconds for everything, waiting for an idle node included.
            selector: only nodes whose labels (or fields) match; which nodes the first caller wanted is not known any more.
            namespace: only nodes of this namespace; None for all.
            on_progress: as for `call`.

        Raises:
            LetterNotFoundError: there is no such dead letter, or somebody is sending it again just now.
            MessageError: it is no command.
            CallError: as for `call`.
        """
        async with letters.in_hand(self.bus, letter) as (held, command):
            call = await self.prepare(
                command.action,
                command.params,
                timeout=timeout,
                selector=selector,
                namespace=namespace,
                priority=command.priority,
                on_progress=on_progress,
            )
            result = await letters.revive(call, held, command)
        return CallAnswer(result, call.attempts[-1].node, tuple(call.attempts), boottime() - call.began)

    @property
    def runs(self) -> Runs:
        """Runs of process cards: begin, look, cancel, approve. Their database is opened at the first use."""
        if self._runs is None:
            from roster.orchestrator.runs.runs import Runs  # who only calls need not read the cards' modules

            self._runs = Runs(self, self._runs_url)
        return self._runs

    async def run(
        self,
        card: CardLike,
        inputs: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        no_nodes: NoNodes = "wait",
        timeout: float | None = None,
    ) -> RunRecord:
        """Run a process card, and return the record of the run when it has ended, however that is.

        The run is on the disk before anything is done. If this process dies, the next orchestrator on the same database goes
        on with it (`roster orchestrate` is one that waits for that); finished steps are not done again.

        Args:
            card: its file, its document, or a `ProcessCard`.
            inputs: what `${input...}` means in the card; JSON.
            run_id: an id of your own; the same id with the same card and inputs is the same run.
            no_nodes: a step that no node can do waits for one up to its timeout (`wait`), or fails at once (`fail`).
            timeout: seconds to wait for the end; the run goes on beyond. The card has a `timeout` of its own.

        Raises:
            DocumentError: the card, or one that it runs, is wrong.
            TimeoutError: it has not ended in time.
            ConfigError: the extra `runs` is not installed.
            RunsUnavailableError: the database of runs cannot be used.

        Example:
            >>> record = await orchestrator.run("card.yaml", {"topic": "bees"})
            >>> record.status, record.result
            ('success', {'article': 'All about bees'})
        """
        return await self.runs.run(card, inputs, run_id=run_id, no_nodes=no_nodes, timeout=timeout)

    # -- control --------------------------------------------------------------------------------------------------

    async def control(
        self,
        signal: str,
        data: Mapping[str, Any] | None = None,
        *,
        nodes: Iterable[str] | None = None,
        selector: SelectorLike = None,
        namespace: str | None = None,
        timeout: float = CONTROL_TIMEOUT,
        on_answer: Callable[[NodeAnswer], None] | None = None,
    ) -> list[NodeAnswer]:
        """Send a control signal to nodes and return what each confirmed, in order of name.

        A node confirms when the signal has taken effect; `shutdown` is reported when the node has left. Whoever is silent
        or refuses has an `error` in its answer, and hurts no other. The signal reaches the incarnations that are registered
        now, and none that comes after them under the same name.

        Args:
            signal: `pause` (no new work; what waits is handed back, what runs is finished), `resume`, `stop` (`pause`, and
                what runs is cancelled), `shutdown` (leave in good order and end, as by SIGTERM), or one that the nodes have
                a function for, such as `config`.
            data: what goes with it.
            nodes: `name` or `namespace/name`; None: those that the selector means and that are not offline.
            selector: only nodes whose labels (or fields) match.
            namespace: of names without one, else `default`; without `nodes`: only nodes of this namespace; None for all.
            timeout: seconds for each node.
            on_answer: called on this loop with each answer as it comes.

        Raises:
            NodeNotFoundError: a name is not registered, or nothing matches.
            ConfigError: both names and a selector were given.

        Example:
            >>> await orchestrator.control("pause", selector="role=writer")
        """
        found = await addressed(self.registry, signal, nodes, selector, namespace)

        async def one(node: NodeRecord) -> NodeAnswer:
            try:
                answer = NodeAnswer(node.key, result=await control.signal(node, signal, data, timeout))
            except CallError as error:
                answer = NodeAnswer(node.key, error=error)
            if on_answer is not None:
                on_answer(answer)
            return answer

        async with Control(self.registry, self.bus, self.team.source) as control:
            return list(await asyncio.gather(*(one(node) for node in found)))

    # -- looking --------------------------------------------------------------------------------------------------

    async def pick(
        self,
        capability: str,
        *,
        selector: SelectorLike = None,
        version: VersionRange | str | None = None,
        namespace: str | None = None,
        strategy: str | None = None,
        sticky_key: str | None = None,
    ) -> NodeRecord:
        """Return the node that a call would go to now. Nothing is sent, nothing is counted.

        Raises:
            NoCapableNodesError: nobody can do it.
            AllNodesBusyError: those who can have no room.
        """
        await self.team.start()
        query = Query.of(
            capability,
            selector=selector,
            version=version,
            namespace=namespace,
            strategy=strategy,
            sticky_key=sticky_key,
        )
        return self.team.refuse(query)

    async def explain(
        self,
        capability: str,
        *,
        selector: SelectorLike = None,
        version: VersionRange | str | None = None,
        namespace: str | None = None,
    ) -> list[PassedOver]:
        """Return every node that has the capability, with exactly one reason each why it would be chosen or not."""
        await self.team.start()
        query = Query.of(capability, selector=selector, version=version, namespace=namespace)
        return self.team.rows(query)

    def node(self, key: str) -> NodeRecord | None:
        """Return a node from the local copy by `namespace/name`."""
        return self.team.node(key)

    # -- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Fetch the local copy of the registry now rather than at the first call.

        Raises:
            StoreError: the registry cannot be read.
        """
        await self.team.start()

    async def close(self) -> None:
        """Close bus and registry. The commands of calls that are still open are taken back, and the calls fail."""
        if self.team.closed:
            return
        if self._runs is not None:
            await self._runs.close()
        self.team.close()
        try:
            await self.bus.close()
        finally:
            await self.registry.close()

    async def __aenter__(self) -> Orchestrator:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()
