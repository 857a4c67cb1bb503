"""What a scenario found, and which of its promises were kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from servers import RabbitMQ

STORES = ("etcd", "consul", "zookeeper")


@dataclass(slots=True)
class Report:
    """What a scenario found.

    Attributes:
        facts: what was measured, and its value.
        promises: what was promised, and whether it was kept.
    """

    facts: list[tuple[str, str]] = field(default_factory=list)
    promises: list[tuple[str, bool]] = field(default_factory=list)

    def fact(self, what: str, value: object) -> None:
        """Note a figure."""
        self.facts.append((what, str(value)))

    def promise(self, text: str, kept: bool) -> None:
        """Note a promise and whether it was kept."""
        self.promises.append((text, kept))

    def include(self, about: str, other: Report) -> None:
        """Take over another report, each line of it marked with what it is about."""
        self.facts += [(f"{about}: {what}", value) for what, value in other.facts]
        self.promises += [(f"{about}: {text}", kept) for text, kept in other.promises]


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks of a scenario.

    Attributes:
        registry: URL of a registry to use; None: a SQLite file of its own. In the scenarios about runs also `etcd`,
            `consul` or `zookeeper`: one started for the scenario.
        bus: URL of a bus to use; None: a local bus of its own; `amqp`: a RabbitMQ started for the scenario.
        stores: which servers to try, of `STORES`.
        runs: URL of a database of runs; None: a SQLite file of its own; `postgres`: a PostgreSQL started for the scenario.
        frozen: seconds that a frozen agent stands still.
        draw: where a scenario that can draws what happened, as SVG; None: nowhere.
        broker: the RabbitMQ that was started for the scenario, if one was; `bus` is its URL then.
    """

    registry: str | None = None
    bus: str | None = None
    stores: tuple[str, ...] = STORES
    frozen: float = 60.0
    runs: str | None = None
    draw: Path | None = None
    broker: RabbitMQ | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """A fault run.

    Attributes:
        what: one line.
        run: does it.
        within: seconds that it may take at most.
        of_bus: whether the bus is what it is about, or goes through what it is about.
        of_runs: whether it is about runs of process cards.
    """

    what: str
    run: Callable[[Options], Awaitable[Report]]
    within: float
    of_bus: bool = False
    of_runs: bool = False
