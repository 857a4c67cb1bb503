"""What a walk through a card asks of its surroundings: to have things done, to wait, and to remember both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from roster.cards import ActionStep, Block, Step
from roster.cards.steps import Status
from roster.errors import RosterError

Decision: TypeAlias = Literal["again", "continue", "abort"]
Error: TypeAlias = Mapping[str, Any]


class RunFailure(RosterError):
    """A run comes to nothing.

    Attributes:
        error: `code`, `type`, `message`, and `step` and `field` where there is one.
    """

    def __init__(self, error: Error) -> None:
        super().__init__(str(error.get("message", "")))
        self.error = dict(error)


@dataclass(frozen=True, slots=True)
class Place:
    """Which visit of which step, told apart from all others of the run.

    Attributes:
        prefix: the way here: empty at the top, else the key of the step around it and the number of branch or item.
        step: the step's id.
        visit: the how manieth; the first is 1.
    """

    prefix: str
    step: str
    visit: int

    @property
    def key(self) -> str:
        """The visit's name: `each#1/3/summarise#1` is the first visit of `summarise` for the fourth item of `each`."""
        return f"{self.prefix}{_escaped(self.step)}#{self.visit}"

    @property
    def parent(self) -> str | None:
        """The key of the step whose branch or item it is part of."""
        return self.prefix[:-1].rpartition("/")[0] or None

    def inside(self, number: int) -> str:
        """Return the prefix of what is done in a branch or for an item."""
        return f"{self.key}/{number}/"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("/", "%2F").replace("#", "%23")


@dataclass(frozen=True, slots=True)
class Tried:
    """What one try brought: a result, or an error.

    Attributes:
        result: where there is no error.
        error: `code`, `type`, `message`.
        known: with an error: whether it is certain that the work is not being done and was not done. A further try may then
            do it under a new idempotency key; else it must use the same.
    """

    result: Any = None
    error: Error | None = None
    known: bool = True


@dataclass(frozen=True, slots=True)
class Heard:
    """What a wait brought.

    Attributes:
        how: `came` (the event, the approval), `rejected`, or `timeout`.
        data: what came with it.
    """

    how: Literal["came", "rejected", "timeout"]
    data: Any = None


@dataclass(frozen=True, slots=True)
class Order:
    """A block that is to be walked beside others.

    Attributes:
        block: its path in the card: the step that it is part of, and its number among that step's blocks.
        prefix: of the places in it.
        scope: its variables, a copy.
    """

    block: tuple[str, int]
    prefix: str
    scope: dict[str, Any]


@dataclass(frozen=True, slots=True)
class End:
    """How a walk ended.

    Attributes:
        how: `done` (it came to the end of its block), `complete` (a `complete` step ends the whole run), `failed`, or
            `cancelled` (others had done enough).
        result: what the last step with an output brought; with `complete` the result.
        status: with `complete`.
        changed: the variables that it has set.
        error: with `failed`.
    """

    how: Literal["done", "complete", "failed", "cancelled"]
    result: Any = None
    status: Status = "success"
    changed: Mapping[str, Any] = field(default_factory=dict)
    error: Error | None = None


class World(Protocol):
    """The surroundings of one walk. Whatever it answers it answers again when the walk is repeated from its beginning."""

    async def enter(self, place: Place, step: Step) -> None:
        """A step is about to be done. Waits while the run is paused.

        Raises:
            RunFailure: the run has no time left.
        """
        ...

    def leave(self, place: Place, step: Step, *, error: Error | None = None, skipped: bool = False) -> None:
        """A step is over."""
        ...

    async def attempt(self, place: Place, step: ActionStep, params: Any, number: int, key: int) -> Tried:
        """Have a capable node do it, once. Never raises for what nodes do.

        Args:
            number: the how manieth try; the first is 1.
            key: tries with one number are the same work.
        """
        ...

    async def rest(self, place: Place, seconds: float) -> None:
        """Wait before the next try."""
        ...

    async def pause(self, place: Place, seconds: float) -> None:
        """Wait as the card asks for."""
        ...

    async def event(self, place: Place, name: str, timeout: float) -> Heard:
        """Wait for an event."""
        ...

    async def approval(self, place: Place, message: str, timeout: float) -> Heard:
        """Wait for a person."""
        ...

    async def escalate(self, place: Place, error: Error) -> Decision:
        """Wait for a person to say what follows a failure."""
        ...

    async def blocks(
        self, place: Place, orders: Sequence[Order], *, need: int, max_concurrency: int
    ) -> list[End]:
        """Walk several blocks at once, at most so many; once `need` of them are done, or cannot be, the rest is cancelled.

        Returns:
            How each ended, in the order of `orders`.
        """
        ...

    async def card(self, place: Place, card: str, inputs: Any, timeout: float | None, number: int) -> End:
        """Run another card, as a part of this run."""
        ...


def block_of(steps: Mapping[str, Step], path: tuple[str, int]) -> Block:
    """Return the block that an order's path names."""
    return steps[path[0]].blocks[path[1]]
