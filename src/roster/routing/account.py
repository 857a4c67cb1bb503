"""What a router knows of one incarnation of a node: its load, its results, its seats in the pools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from roster.passport import Selector
from roster.routing.load import Count
from roster.routing.outlier import Record
from roster.routing.tier import Seat


class Routable(Protocol):
    """What routing needs to know of a node; the registry's record of a node satisfies it.

    Attributes:
        key: `namespace/name`.
        uid: its incarnation.
        state: starting, ready, busy, draining, offline or unknown.
        active_tasks: tasks there, by its newest status.
        capacity: `max_concurrent_tasks`.
        seq: the node's counter at that status; 0 for a node that has none.
        labels: its labels.
        capabilities: each capability's name and version.
        withdrawn: capabilities that it has and does not offer at present.
        mindbus_queue: where its commands go.
    """

    @property
    def key(self) -> str: ...
    @property
    def uid(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def active_tasks(self) -> int: ...
    @property
    def capacity(self) -> int: ...
    @property
    def seq(self) -> int: ...
    @property
    def labels(self) -> Mapping[str, str]: ...
    @property
    def capabilities(self) -> Mapping[str, str | None]: ...
    @property
    def withdrawn(self) -> tuple[str, ...]: ...
    @property
    def mindbus_queue(self) -> str: ...
    def matches(self, selector: Selector) -> bool:
        """Whether this node's labels and document satisfy the selector."""
        ...


class Account:
    """What is counted of one node.

    Attributes:
        node: its newest record.
        order: its place in the order of arrival.
        count: its load.
        record: what its last commands came to.
        seats: its places, one in each pool that it belongs to.
        suspicion: why it is suspect, None when it is not.
        usual: seconds that a command usually takes there, None before the first.
    """

    __slots__ = ("count", "node", "order", "record", "seats", "suspicion", "usual")

    def __init__(self, node: Routable, order: int) -> None:
        self.node = node
        self.order = order
        self.count = Count()
        self.record = Record()
        self.seats: list[Seat[Account]] = []
        self.suspicion: str | None = None
        self.usual: float | None = None

    def place(self) -> None:
        """Move its seats to its load of now."""
        seats = self.seats
        if seats:
            rank, spare = self.count.standing()
            for seat in seats:
                tier = seat.tier
                if tier is not None:
                    tier.place(seat, rank, spare)

    def took(self, duration: float) -> None:
        """Learn how long a command took: an average that forgets."""
        usual = self.usual
        self.usual = duration if usual is None else usual + 0.2 * (duration - usual)
