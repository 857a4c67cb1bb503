"""What every command is given: the two URLs, the way to print, and a loop to run on."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from roster._logs import FORMAT_VARIABLE, LEVEL_VARIABLE, Format
from roster.cli.output import Output

if TYPE_CHECKING:
    import asyncio

    from roster.bus.mindbus import MindBus
    from roster.orchestrator import Orchestrator
    from roster.orchestrator.runs.book import Book
    from roster.registry import Registry

T = TypeVar("T")


class Session:
    """One run of the command line.

    Attributes:
        registry_url: `--registry`, else None: the layer below takes the environment.
        bus_url: `--bus`, else None.
        debug: whether a failure shows its traceback.
        verbose: how often `-v` was given.
        log_format: `--log-format`, else None.
        out: where everything is said.
    """

    def __init__(self) -> None:
        self.registry_url: str | None = None
        self.bus_url: str | None = None
        self.debug = os.environ.get("ROSTER_DEBUG", "") not in ("", "0")
        self.verbose = 0
        self.log_format: Format | None = None
        self.out = Output()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run the body of a command."""
        import asyncio  # 20 ms that a help page need not wait for

        with asyncio.Runner() as runner:
            runner.get_loop().set_exception_handler(_unheard)
            return runner.run(work)

    @asynccontextmanager
    async def registry(self) -> AsyncIterator[Registry]:
        """Open the registry.

        Its store is asked at once: who waits at a terminal wants to hear within one request's time what is wrong with it.

        Raises:
            StoreError: the store is out of reach, or refuses us.
        """
        from roster.registry import Registry

        async with Registry.connect(self.registry_url) as registry:
            await registry.store.info()
            yield registry

    def bus(self) -> MindBus:
        """Return the bus, for `async with`."""
        from roster.bus.mindbus import MindBus

        return MindBus.connect(self.bus_url)

    @asynccontextmanager
    async def orchestrator(self) -> AsyncIterator[Orchestrator]:
        """Open an orchestrator; its registry's store is asked at once, as in `registry`.

        Raises:
            StoreError: the store is out of reach, or refuses us.
            BusUnavailableError: the bus cannot be used.
        """
        from roster.orchestrator import Orchestrator

        async with Orchestrator.connect(self.registry_url, self.bus_url) as orchestrator:
            await orchestrator.registry.store.info()
            yield orchestrator

    @contextmanager
    def book(self) -> Iterator[Book]:
        """Open the database of runs: what looks into it, or says something to a run, needs neither registry nor bus.

        Raises:
            ConfigError: `ROSTER_RUNS` is wrong, or the packages are not installed.
            RunsUnavailableError: the database cannot be used.
        """
        from roster.orchestrator.runs.book import Book

        book = Book()
        try:
            yield book
        finally:
            book.close()

    def environment(self) -> dict[str, str]:
        """Return the environment for a child process, which is to meet the same registry and bus, and to log alike."""
        out = dict(os.environ)
        if self.registry_url is not None:
            out["ROSTER_REGISTRY"] = self.registry_url
        if self.bus_url is not None:
            out["ROSTER_BUS"] = self.bus_url
        if self.log_format is not None:
            out[FORMAT_VARIABLE] = self.log_format
        if self.verbose:
            out[LEVEL_VARIABLE] = "info" if self.verbose == 1 else "debug"
        return out


def _unheard(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Tell of what ended unheard, but for RabbitMQ's library: why it lost its connection the bus has said already."""
    if not type(context.get("exception")).__module__.startswith("aiormq"):
        loop.default_exception_handler(context)
