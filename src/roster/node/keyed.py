"""Commands with an idempotency key: answered from what is kept, joined to what runs, else run once and kept.

A key's life at a node: its first command has the kept answers looked up. If there is one, it is the answer; else the
command is taken in like any other, and whatever arrives with the same key meanwhile joins it and gets the same answer. The
handler's end is kept before it is sent. What was stopped before its end is not done and not kept; but a handler that went
on to its end though it was told to stop has done its work: until that end the key counts as running, and the end is kept.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from roster._clock import boottime
from roster.bus import Message, strictjson
from roster.bus.base import Delivery
from roster.bus.failure import STOPPED
from roster.bus.keys import key_fault, namespace_of, params_digest, scope_of
from roster.bus.message import Kind
from roster.errors import (
    CallCancelledError,
    CallError,
    CallTimeoutError,
    Code,
    InvalidParamsError,
    MessageError,
    RemoteError,
)
from roster.node.answerfile import Kept
from roster.node.answers import Answers
from roster.node.hands import Stage, Work

if TYPE_CHECKING:
    from roster.node.engine import Engine

logger = logging.getLogger("roster.node")

_SCOPE = re.compile(r"[0-9a-f]{32}")
# Not an end of the work: whoever asks again should have it done.
_STOPPED = (Code.CANCELLED, Code.DEADLINE_EXCEEDED)


@dataclass(slots=True, eq=False)
class Member:
    """One of the deliveries that wait for the same work."""

    delivery: Delivery
    deadline: float | None
    timer: asyncio.TimerHandle | None = None


@dataclass(slots=True, eq=False)
class Shared:
    """All deliveries of one key, seen by the engine as one: the `Delivery` of its work.

    Attributes:
        message: the first command; the handler works on it.
        sender: that of the first: the work counts as its.
        lag: likewise.
        on_cancel: called when the last one has gone.
    """

    message: Message
    sender: int
    lag: float
    answer_one: Callable[[Delivery, Message], None]
    on_cancel: Callable[[], None] | None = None
    members: dict[Delivery, Member] = field(default_factory=dict)
    started: bool = False
    _once: bool = False

    def start(self, *, once: bool = False) -> None:
        """Tell all that the work begins."""
        self.started, self._once = True, once
        for delivery in self.members:
            delivery.start(once=once)

    def joined(self, delivery: Delivery) -> None:
        """Tell one who came later that the work has begun."""
        delivery.start(once=self._once)

    def progress(self, message: Message) -> None:
        """Tell all how far it is."""
        for delivery in self.members:
            delivery.progress(
                Message.event(
                    message.subject, message.data, source=message.source, correlation=delivery.message.id
                )
            )

    def reply(self, message: Message) -> None:
        """Answer all; nobody waits any more."""
        members, self.members = list(self.members.values()), {}
        for member in members:
            _detach(member)
            self.answer_one(member.delivery, message)


@dataclass(slots=True, eq=False)
class Entry:
    """One key that is being looked up, waits, runs, or has not come to its end though it was stopped.

    Attributes:
        work: what the engine has in hand; None while the kept answers are looked up.
        begun: whether the handler was handed the work.
        ended: whether the handler has come to its end.
        lost: the node lost its right to the work: its end is not kept.
    """

    scope: str
    params: bytes
    shared: Shared
    work: Work | None = None
    begun: bool = False
    ended: bool = False
    lost: bool = False


class Keyed:
    """Everything that a node does with keys. It lives on the I/O loop.

    Args:
        engine: takes in and answers commands.
        answers: what is kept.
    """

    def __init__(self, engine: Engine, answers: Answers) -> None:
        self._engine = engine
        self._answers = answers
        self._live: dict[str, Entry] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def close(self) -> None:
        """Close the file; what is being written is written first."""
        self._closed = True
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._answers.close()

    # -- arriving -------------------------------------------------------------------------------------------------

    def arrive(self, delivery: Delivery) -> None:
        """Take a command with a key."""
        message = delivery.message
        try:
            scope, params = self._read(message)
        except CallError as error:
            self._engine.refuse(delivery, error)
            return
        entry = self._live.get(scope)
        if entry is None:
            shared = Shared(message, delivery.sender, delivery.lag, self._answer_one)
            entry = self._live[scope] = Entry(scope, params, shared)
            self._join(entry, delivery)
            self._own(self._look_up(entry))
        elif entry.params != params:
            self._engine.refuse(delivery, _other_params(message))
        else:
            self._join(entry, delivery)

    def _read(self, message: Message) -> tuple[str, bytes]:
        fault = key_fault(message.key)
        action, params = message.data.get("action"), message.data.get("params", {})
        if fault is None and (not isinstance(action, str) or not isinstance(params, dict)):
            fault = "a command's data is {'action': text, 'params': object}"
        if fault is not None:
            raise MessageError(fault, outcome="refused")
        self._engine.check_addressee(message)
        if message.timeout is not None and message.timeout <= 0:
            raise CallTimeoutError("the deadline had passed when the command arrived", outcome="refused")
        return scope_of(namespace_of(message.source), str(action), message.key), params_digest(params)

    def _join(self, entry: Entry, delivery: Delivery) -> None:
        timeout = delivery.message.timeout
        member = Member(delivery, None if timeout is None else boottime() + timeout)
        entry.shared.members[delivery] = member
        delivery.on_cancel = lambda: self._leave(entry, member, _taken_back(entry))
        if timeout is not None:
            loop = asyncio.get_running_loop()
            member.timer = loop.call_later(
                timeout, lambda: self._leave(entry, member, self._expired(entry, member))
            )
        if entry.work is not None:
            _extend(entry, entry.work)
            if entry.shared.started:
                entry.shared.joined(delivery)
                self._engine.flush()

    def _leave(self, entry: Entry, member: Member, error: CallError) -> None:
        """One was taken back, or its time is up: it alone goes, and the work only with the last."""
        shared = entry.shared
        if shared.members.pop(member.delivery, None) is None:
            return
        _detach(member)
        self._engine.answer_error(member.delivery, error)
        work = entry.work
        if not shared.members and work is not None and work.stage is not Stage.DONE and shared.on_cancel:
            shared.on_cancel()

    def _expired(self, entry: Entry, member: Member) -> CallTimeoutError:
        message, key = member.delivery.message, self._engine.key
        if not entry.shared.started:
            return CallTimeoutError(
                f"{key} had no slot for {message.action} before its deadline",
                outcome="refused",
                retryable=True,
                details=STOPPED,
            )
        alone = len(entry.shared.members) == 0
        return CallTimeoutError(
            f"{message.action} ran past its {message.timeout or 0:.3f} s on {key} and "
            + ("was stopped" if alone else "goes on for others who asked with the same key"),
            outcome="unknown",
            retryable=True,
            details=STOPPED,
        )

    # -- running --------------------------------------------------------------------------------------------------

    async def _look_up(self, entry: Entry) -> None:
        kept = await self._answers.find(entry.scope)
        if not entry.shared.members:  # all have gone meanwhile
            self._release(entry)
        elif kept is None:
            self._run(entry)
        else:
            self._release(entry)
            if kept.params != entry.params:
                self._engine.refuse(entry.shared, _other_params(entry.shared.message))
            else:
                self._repeat(entry, kept)

    def _repeat(self, entry: Entry, kept: Kept) -> None:
        """Answer with what is kept."""
        kind = Kind.RESULT if kept.ok else Kind.ERROR
        try:
            answer = Message(kind, strictjson.decode(kept.data), source=self._engine.source)
        except MessageError as error:
            # It was done, so it must not be done again: that much is known.
            text = f"{entry.shared.message.action} was done for this key, but its kept answer is damaged: {error}"
            self._engine.refuse(entry.shared, RemoteError(text, code=Code.DATA_LOSS))
        else:
            entry.shared.reply(answer)

    def _run(self, entry: Entry) -> None:
        work = self._engine.admit(entry.shared, entry)
        if work is None:  # refused, and all have been told
            self._release(entry)

    def taken(self, entry: Entry, work: Work) -> None:
        """The engine has taken the work in."""
        entry.work = work
        _extend(entry, work)

    def finished(self, entry: Entry) -> None:
        """The engine has answered the work and freed its slot: the handler's end, or something that came before it."""
        if entry.ended or not entry.begun:
            self._release(entry)

    def ended(self, work: Work, answer: Message | None) -> None:
        """A handler has come to its end, or (None) was never called.

        Args:
            work: what it worked on.
            answer: what it came to.
        """
        entry = work.entry
        assert entry is not None  # noqa: S101 - only keyed work comes here
        if entry.work is not work:
            return
        entry.ended = True
        if answer is None or entry.lost or self._closed or not _is_end(answer):
            self._conclude(entry, work, answer)
        else:
            self._own(self._keep(entry, work, answer))

    async def _keep(self, entry: Entry, work: Work, answer: Message) -> None:
        """Write the answer down, then send it."""
        try:
            kept = Kept(entry.params, answer.kind is Kind.RESULT, strictjson.encode(answer.data))
            # Too large, or no JSON: that it cannot be said is the answer then.
            answer.to_bytes()
        except MessageError as error:
            problem = RemoteError(
                f"the answer of {self._engine.key} cannot be sent: {error}", code=Code.INTERNAL
            )
            answer = Message.error_for(work.message, problem, source=self._engine.source)
            kept = Kept(entry.params, ok=False, data=strictjson.encode(answer.data))
        await self._answers.keep(entry.scope, kept)
        if entry.lost:
            # The lease ended while it was written: another node may do it by now, and its answer will be the one.
            await self._answers.forget(entry.scope)
        self._conclude(entry, work, answer)

    def _conclude(self, entry: Entry, work: Work, answer: Message | None) -> None:
        if work.stage is not Stage.DONE and answer is not None:
            self._engine.finish(work, answer)
            return
        # It was stopped, answered and dropped before; what joined since is answered now, or done anew.
        if self._live.get(entry.scope) is not entry:
            return
        shared = entry.shared
        if not shared.members:
            self._release(entry)
        elif answer is not None and _is_end(answer) and not entry.lost:
            self._release(entry)
            shared.reply(answer)
        else:
            first = next(iter(shared.members))
            again = Shared(first.message, first.sender, first.lag, self._answer_one, members=shared.members)
            entry.shared, entry.work = again, None
            entry.begun = entry.ended = entry.lost = False
            self._run(entry)

    def _release(self, entry: Entry) -> None:
        if self._live.get(entry.scope) is entry:
            del self._live[entry.scope]

    # -- answering ------------------------------------------------------------------------------------------------

    def _answer_one(self, delivery: Delivery, answer: Message) -> None:
        command = delivery.message
        self._engine.answer(
            delivery,
            Message(
                answer.kind,
                answer.data,
                source=answer.source,
                subject=command.subject,
                correlation=command.id,
                traceparent=command.traceparent,
                tracestate=command.tracestate,
            ),
        )

    def recall(self, delivery: Delivery) -> None:
        """Say whether this node knows a key: the control signal `recall`, with the key's scope."""
        scope = delivery.message.data.get("scope")
        if not isinstance(scope, str) or not _SCOPE.fullmatch(scope):
            self._engine.deny(
                delivery, "recall needs the scope of a key, 32 hexadecimal digits", Code.INVALID_ARGUMENT
            )
        elif scope in self._live:
            self._say(delivery, "running")
        else:
            self._own(self._recall(delivery, scope))

    async def _recall(self, delivery: Delivery, scope: str) -> None:
        kept = await self._answers.find(scope)
        self._say(delivery, "kept" if kept is not None else "running" if scope in self._live else "unknown")

    def _say(self, delivery: Delivery, known: str) -> None:
        engine = self._engine
        engine.confirm(delivery, {"node": engine.key, "uid": engine.uid, "known": known})

    def _own(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error(
                "%s: a command with a key failed in the node itself", self._engine.key, exc_info=error
            )


def _detach(member: Member) -> None:
    member.delivery.on_cancel = None
    if member.timer is not None:
        member.timer.cancel()


def _extend(entry: Entry, work: Work) -> None:
    """The work may go on as long as one of those who wait for it."""
    deadlines = [member.deadline for member in entry.shared.members.values()]
    known = [deadline for deadline in deadlines if deadline is not None]
    latest = max(known) if len(known) == len(deadlines) else None
    work.context.extend(latest)
    work.handling.deadline = latest


def _is_end(answer: Message) -> bool:
    """Whether the work is over with this answer: a result, or an error that the handler would give again."""
    if answer.kind is Kind.RESULT:
        return True
    return not answer.data.get("retryable", False) and answer.data.get("code") not in _STOPPED


def _taken_back(entry: Entry) -> CallCancelledError:
    return CallCancelledError(
        "taken back by the caller", outcome="unknown" if entry.shared.started else "refused"
    )


def _other_params(message: Message) -> InvalidParamsError:
    return InvalidParamsError(
        f"the idempotency key {message.key!r} was used with other params for {message.action}: "
        "repeat the call as it was, or use another key",
        outcome="refused",
    )
