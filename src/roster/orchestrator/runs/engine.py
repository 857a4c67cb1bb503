"""The engine of durable execution: DBOS, set up so that work is never stranded.

What others met, and how it is kept off here:
- the same executor id in two processes strands work: ours is unique to the process;
- work belongs to the application version it began under: ours never changes, a run is pinned to its card's digest instead;
- work of another executor stays where it is: `resume` moves it to the queue of this one. Each has a queue of its own: from a
  common one another might take what this one has claimed, and die before it has said so.

Source: dbos-transact-py, issues 716, 804, 805.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from roster.errors import ConfigError, RunsUnavailableError

if TYPE_CHECKING:
    import sqlalchemy as sa

T = TypeVar("T")
APPLICATION = "roster"
VERSION = "1"
_QUEUE = "roster-"
_WORKFLOW = "roster.walk"
_POLL_SECONDS = 0.25
# They wait for the database, which takes one write at a time.
_THREADS = 16
_STOP_SECONDS = 20.0

logger = logging.getLogger("roster.orchestrator.runs")

Body = Callable[[str], Coroutine[Any, Any, dict[str, Any]]]


class Given(asyncio.CancelledError):
    """This walk is another's now, or is to be left for a later process: it ends without a word in the engine's book."""


class _Json:
    """How values stand in the engine's tables: plain JSON, never a pickle."""

    def serialize(self, data: Any) -> str:
        if isinstance(data, BaseException):
            data = {"$error": type(data).__name__, "message": str(data)[:2000]}
        return json.dumps(data, ensure_ascii=False, separators=(",", ":"))

    def deserialize(self, serialized_data: str) -> Any:
        data = json.loads(serialized_data)
        if isinstance(data, dict) and "$error" in data:
            return RuntimeError(f"{data['$error']}: {data.get('message', '')}")
        return data

    def name(self) -> str:
        return "roster_json"


class _Bridge(logging.Handler):
    """Hands what the engine says to our own logger."""

    def emit(self, record: logging.LogRecord) -> None:
        # It says every failure of a workflow as an error, and the run's record says the same better.
        theirs = logger.getChild("engine")
        theirs.log(logging.INFO if record.levelno >= logging.WARNING else logging.DEBUG, record.getMessage())


_running: Engine | None = None
_walk: Any = None


class Engine:
    """One process's engine. There is one at a time: DBOS keeps its state in the module.

    Args:
        database: where it keeps what it knows.
        executor: the id of this process.
        body: what a walk does, given its id.
    """

    def __init__(self, database: sa.Engine, executor: str, body: Body) -> None:
        self._database = database
        self.executor = executor
        self._queue = _QUEUE + executor
        self._body = body
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False
        self._threads: ThreadPoolExecutor | None = None

    async def launch(self) -> None:
        """Start it on this loop.

        Raises:
            ConfigError: it is not installed, or runs in this process already.
            RunsUnavailableError: its database cannot be used.
        """
        global _running
        try:
            from dbos import DBOS
        except ImportError:
            raise ConfigError(
                "running process cards needs further packages: pip install 'agent-roster[runs]'"
            ) from None
        if _running is not None:
            raise ConfigError(
                "runs are open in this process already: use one orchestrator, or close the other first"
            )
        if _instance() is not None:
            raise ConfigError(
                "this process uses DBOS for itself, which knows one database a process: run cards in a process of their own"
            )
        _running = self
        # asyncio can be told the threads of `to_thread`, and not be asked for them.
        self._threads = getattr(asyncio.get_running_loop(), "_default_executor", None)
        try:
            self._quiet()
            DBOS(
                config={
                    "name": APPLICATION,
                    "system_database_url": self._database.url.render_as_string(hide_password=False),
                    "system_database_engine": self._database,
                    "application_version": VERSION,
                    "executor_id": self.executor,
                    "serializer": _Json(),  # type: ignore[typeddict-item]  # it has the methods, and not its base: that is imported late
                    "log_level": "INFO",
                    "max_executor_threads": _THREADS,
                    # Polling is all that SQLite has; on PostgreSQL it spares each process a connection that listens.
                    "use_listen_notify": False,
                    "scheduler_polling_interval_sec": 3600.0,
                    # Nothing is sent that way; its thread looks at an empty map, and ends no sooner than it wakes.
                    "notification_listener_polling_interval_sec": 0.1,
                }
            )
            self._quiet()
            _register()
            DBOS.listen_queues([self._queue])
            # On this loop: DBOS takes the one that runs here for the walks that it takes up.
            DBOS.launch()
            await DBOS.register_queue_async(
                self._queue, polling_interval_sec=_POLL_SECONDS, on_conflict="always_update"
            )
        except Exception as error:
            await self.close()
            if isinstance(error, ConfigError):
                raise
            line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise RunsUnavailableError(f"the engine for runs does not start: {line}") from error

    @staticmethod
    def _quiet() -> None:
        theirs = logging.getLogger("dbos")
        for handler in list(theirs.handlers):
            theirs.removeHandler(handler)
        theirs.addHandler(_Bridge())
        theirs.propagate = False

    async def start(self, walk: str) -> None:
        """Begin a walk here and now. One that the engine knows already is resumed."""
        from dbos import DBOS, SetWorkflowID

        with SetWorkflowID(walk):
            await DBOS.start_workflow_async(_walk, walk)

    async def resume(self, walks: Sequence[str]) -> None:
        """Take walks up in this process; those that the engine does not know begin."""
        from dbos import DBOS

        if not walks:
            return
        known = await DBOS.list_workflows_async(workflow_ids=list(walks), load_input=False, load_output=False)
        there = {status.workflow_id for status in known}
        if there:
            await DBOS.resume_workflows_async(
                [walk for walk in walks if walk in there], queue_name=self._queue
            )
        for walk in walks:
            if walk not in there:
                await self.start(walk)

    async def cancel(self, walks: list[str]) -> None:
        """Have the engine forget walks: they are not resumed."""
        from dbos import DBOS

        if walks:
            await DBOS.cancel_workflows_async(walks)

    async def bury(self, living: Collection[str]) -> None:
        """Remove the queues of executors that are gone: nobody waits for anything in them."""
        from dbos import DBOS

        for queue in await DBOS.list_queues_async():
            if queue.name.startswith(_QUEUE) and queue.name.removeprefix(_QUEUE) not in living:
                await DBOS.delete_queue_async(queue.name)

    async def forget(self, walks: list[str]) -> None:
        """Remove what the engine kept of walks."""
        from dbos import DBOS

        if walks:
            await DBOS.delete_workflows_async(walks)

    @staticmethod
    async def remember(name: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do something once: when its walk is repeated, what it returned then is returned again. It returns JSON."""
        from dbos import DBOS

        async def step() -> T:
            return await work()

        return await DBOS.run_step_async({"name": name}, step)

    async def walk(self, walk: str) -> dict[str, Any]:
        """What the engine runs: called by it alone."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        if self._closing:
            raise Given
        self._tasks.add(task)
        try:
            return await self._body(walk)
        finally:
            self._tasks.discard(task)

    async def close(self) -> None:
        """Leave all walks where they are, and end its threads."""
        global _running
        if _running is not self:
            return  # never launched: what runs here, if anything, is another's
        from dbos import DBOS

        self._closing = True
        # Also those that are another's by now, and that DBOS has wait for that one's word.
        tasks = self._tasks | getattr(_instance(), "_workflow_tasks", set())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_SECONDS)
        loop = asyncio.get_running_loop()
        own = ThreadPoolExecutor(max_workers=1, thread_name_prefix="roster-runs-end")
        threads = getattr(_instance(), "_executor_field", None)

        def end() -> None:
            DBOS.destroy()
            if threads is not None:
                threads.shutdown()  # DBOS does not wait for its threads; they hold connections until they have done

        try:
            await asyncio.wait_for(loop.run_in_executor(own, end), _STOP_SECONDS)
        except TimeoutError:
            logger.warning("the engine for runs did not end within %g s", _STOP_SECONDS)
        finally:
            own.shutdown(wait=False)
            # It had put its own in that place, and that takes nothing any more.
            loop.set_default_executor(self._threads or ThreadPoolExecutor(thread_name_prefix="asyncio"))
            _running = None


def _instance() -> object | None:
    """Return the DBOS of this process, whoever made it: there is no public way to ask."""
    from dbos import _dbos

    return _dbos._dbos_global_instance


def _register() -> None:
    """Tell the engine of its one kind of work. It keeps that beyond its own end, so this is done once."""
    global _walk
    from dbos import DBOS

    if _walk is None:

        @DBOS.workflow(name=_WORKFLOW, max_recovery_attempts=None)
        async def walk(walk: str) -> dict[str, Any]:
            if _running is None:
                raise Given
            return await _running.walk(walk)

        _walk = walk
