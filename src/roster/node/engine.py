"""The node's I/O side: takes commands from the bus, orders them, answers them, on a loop that no handler can block."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from roster._clock import boottime
from roster._loops import Hop
from roster.bus import Load, Message
from roster.bus.base import Bus, Consumer, Delivery
from roster.bus.context import MAX_DEPTH, Handling
from roster.bus.failure import STOPPED
from roster.bus.message import Kind
from roster.errors import (
    CallCancelledError,
    CallError,
    CallTimeoutError,
    Code,
    DeliveryError,
    MessageError,
    RemoteError,
)
from roster.node.answers import Answers
from roster.node.askers import Askers
from roster.node.context import Context
from roster.node.handlers import Handler
from roster.node.hands import Hands, Stage, Work
from roster.node.keyed import Entry, Keyed
from roster.node.standstill import SHORT

logger = logging.getLogger("roster.node")


class Engine:
    """Everything that a node does with the bus. It lives on the I/O loop; the node's handlers live elsewhere.

    Args:
        key: `namespace/name` of the node.
        capacity: how many commands run at once.
        handlers: by capability.
        run: called on the I/O loop to have a command run elsewhere; it brings the end back with `finish`.
        stop_running: called on the I/O loop when running work should stop.
        changed: called on the I/O loop whenever the load, or whether work is taken, has changed.
        control: called for control signals that the engine does not serve itself; returns whether it took the message.
        answers: what is kept of commands with an idempotency key; without it a key means nothing here.
    """

    def __init__(
        self,
        *,
        key: str,
        capacity: int,
        handlers: Mapping[str, Handler],
        run: Callable[[list[Work]], None],
        stop_running: Callable[[Work, str], None],
        changed: Callable[[], None],
        control: Callable[[Delivery], bool],
        bus_hop: Hop,
        look: Callable[[], int] = lambda: 0,
        answers: Answers | None = None,
    ) -> None:
        self.key = key
        self.source = f"/{key}"
        self.hands = Hands(capacity)
        self.uid = ""
        self.url = ""
        self.queue = ""
        self.seq = 0
        self.refused = 0
        self.answered = 0
        self._handlers = handlers
        self._run = run
        self._stop_running = stop_running
        self._changed = changed
        self._control = control
        self._hop = bus_hop
        self._look = look
        self._keyed = None if answers is None else Keyed(self, answers)
        self._bus: Bus | None = None
        self._consumer: Consumer | None = None
        self._closed_for: dict[str, str] = {"starting": "is starting"}
        self._withdrawn: dict[str, str] = {}
        self._held: set[int] = set()
        self._solo: Work | None = None
        self._askers = Askers(self._spare, self._say_load)
        self._to_start: list[Work] = []
        self._start_planned = False
        self._idle: asyncio.Event = asyncio.Event()
        self._idle.set()

    # -- life -----------------------------------------------------------------------------------------------------

    async def serve(self, bus: Bus, queue: str, bindings: list[str]) -> None:
        """Begin to consume the node's queue."""
        self._bus = bus
        self.url, self.queue = bus.url, queue
        self._consumer = await bus.serve(
            queue, self._on_delivery, bindings=bindings, prefetch=self.hands.limit
        )

    async def close(self) -> None:
        """Stop consuming; what is still in hand is handed back or cancelled."""
        for work in self.hands.everything():
            self.give_back(work, f"{self.key} has stopped")
        self._askers.close()
        if self._consumer is not None:
            self._consumer.flush()
            await self._consumer.close()
        if self._keyed is not None:
            await self._keyed.close()

    @property
    def healthy(self) -> bool:
        """Whether commands can reach this node."""
        return self._consumer is not None and self._consumer.healthy

    def close_for(self, reason: str, text: str) -> None:
        """Take no new work for this reason (besides any other); `open_for` ends it."""
        if self._closed_for.get(reason) != text:
            self._closed_for[reason] = text
            self._changed()

    def open_for(self, reason: str) -> None:
        """End one reason for taking no work."""
        if self._closed_for.pop(reason, None) is not None:
            self._changed()

    @property
    def reasons(self) -> Mapping[str, str]:
        """Why no work is taken; empty when it is."""
        return self._closed_for

    def withdraw(self, capability: str, why: str) -> None:
        """Refuse commands of one capability."""
        self._withdrawn[capability] = why

    def is_withdrawn(self, capability: str) -> bool:
        """Whether commands of this capability are refused."""
        return capability in self._withdrawn

    def restore(self, capability: str) -> None:
        """Serve a capability again."""
        self._withdrawn.pop(capability, None)

    def occupy(self, tasks: int) -> Load:
        """Count so many tasks as running beside the commands; return the load, none of it the caller's."""
        self.hands.beside = tasks
        self.seq += 1
        self._start_next()
        self._askers.look()
        self._changed()
        return Load(self.hands.active, 0, self.hands.capacity, self.seq)

    async def wait_idle(self) -> None:
        """Return when nothing is in hand."""
        await self._idle.wait()

    def hand_back_waiting(self) -> int:
        """Give every command that has not started back to its caller, who has a better place for it."""
        waiting = [work for work in self.hands.everything() if work.stage is Stage.WAITING]
        for work in waiting:
            self.give_back(work, f"{self.key} {next(iter(self._closed_for.values()), 'takes no work')}")
        return len(waiting)

    def give_back(self, work: Work, why: str, *, lost: bool = False, stood_still: bool = False) -> None:
        """Answer without a result: `refused` for what has not started; what runs is stopped.

        Args:
            lost: this node has no right to the work any more; its caller should do as if the node were dead.
            stood_still: it is lost because the process stood still, which the work itself may have caused.
        """
        if work.stage is Stage.WAITING:
            error: CallError = DeliveryError(why, code=Code.UNAVAILABLE, outcome="refused", retryable=True)
        else:
            self._stop_running(work, why)
            if lost:
                details = None if stood_still else STOPPED
                error = DeliveryError(
                    why, code=Code.UNAVAILABLE, outcome="unknown", retryable=True, details=details
                )
                if work.entry is not None:
                    work.entry.lost = True
            else:
                error = CallCancelledError(why, outcome="unknown")
        self.finish(work, Message.error_for(work.message, error, source=self.source))

    def stood_still(self, gap: float) -> None:
        """This process stood still for `gap` seconds: what waits starts only when no word of its sender is unread."""
        if self.hands.waiting:
            self._hold(
                {work.delivery.sender for work in self.hands.everything() if work.stage is Stage.WAITING}
            )

    def _hold(self, senders: set[int]) -> None:
        new = senders - self._held
        if not new or self._consumer is None:
            return
        # Held before asked: an engine may call back at once.
        self._held |= new
        asked = self._consumer.barrier(self._passed)
        self._held &= asked

    def _passed(self, sender: int) -> None:
        if sender in self._held:
            self._held.discard(sender)
            self._start_next()

    def number_after(self, seq: int) -> None:
        """Have the next report count as newer than one of this number: the registration numbers changes of state, too."""
        self.seq = max(self.seq, seq + 1)

    # -- commands -------------------------------------------------------------------------------------------------

    def load(self, sender: int) -> Load:
        """Return the load as this sender should count it."""
        hands = self.hands
        # Beside what must be alone there is no room.
        capacity = hands.capacity if self._solo is None else min(hands.capacity, hands.active)
        return Load(hands.active, hands.of(sender), capacity, self.seq)

    def _on_delivery(self, delivery: Delivery) -> None:
        message = delivery.message
        if message.kind is Kind.COMMAND:
            self._on_command(delivery)
        elif message.kind is Kind.CONTROL:
            self._on_control(delivery)
        else:
            # Events published to a node's bindings are none of its business.
            logger.debug("%s: ignored a message of kind %s", self.key, message.kind)

    def _on_command(self, delivery: Delivery) -> None:
        if delivery.message.key and self._keyed is not None:
            self._keyed.arrive(delivery)
        else:
            self.admit(delivery)

    def admit(self, delivery: Delivery, entry: Entry | None = None) -> Work | None:
        """Take a command in, or refuse it and return None.

        Args:
            entry: of its idempotency key; then the deadline is looked after there.
        """
        message = delivery.message
        try:
            work = self._accept(delivery)
        except CallError as error:
            self.refuse(delivery, error)
            return None
        if delivery.lag >= SHORT:
            # It lay unread while we stood still; so may its revocation.
            self._hold({delivery.sender})
        if work.solo:
            self._solo = work
        hands = self.hands
        hands.take(work)
        self.seq += 1
        self._idle.clear()
        delivery.on_cancel = lambda: self._on_cancel(work)
        if entry is not None and self._keyed is not None:
            work.entry = entry
            self._keyed.taken(entry, work)
        elif message.timeout is not None:
            work.timer = asyncio.get_running_loop().call_later(message.timeout, self._expire, work)
        self._start_next()
        self._changed()
        return work

    def refuse(self, delivery: Delivery, error: CallError) -> None:
        """Answer a command that was not taken in."""
        self.refused += 1
        self.answer_error(delivery, error)

    def answer_error(self, delivery: Delivery, error: CallError) -> None:
        """Answer a delivery with an error."""
        self.answer(delivery, Message.error_for(delivery.message, error, source=self.source))

    def check_addressee(self, message: Message) -> None:
        """Raise if a message is meant for another incarnation.

        Raises:
            DeliveryError: it is.
        """
        if message.uid and message.uid != self.uid:
            raise _refusal(
                f"{self.key} is another incarnation than the one this {message.kind.name.lower()} is meant for",
                Code.FAILED_PRECONDITION,
            )

    def _accept(self, delivery: Delivery) -> Work:
        """Make work of a command, or raise why not. Nothing here has side effects: refused means not started."""
        message = delivery.message
        action, params = message.data.get("action"), message.data.get("params", {})
        if not isinstance(action, str) or not isinstance(params, dict):
            raise MessageError(
                "a command's data is {'action': text, 'params': object}",
                code=Code.INVALID_ARGUMENT,
                outcome="refused",
            )
        self.check_addressee(message)
        if self._closed_for:
            raise _refusal(f"{self.key} {next(iter(self._closed_for.values()))}", Code.UNAVAILABLE)
        handler = self._handlers.get(action)
        if handler is None:
            known = ", ".join(sorted(self._handlers)) or "none"
            raise RemoteError(
                f"{self.key} has no capability {action[:100]!r} (it has: {known})",
                code=Code.UNIMPLEMENTED,
                outcome="refused",
            )
        if action in self._withdrawn:
            raise _refusal(f"{self.key} has withdrawn {action}: {self._withdrawn[action]}", Code.UNAVAILABLE)
        if len(message.ancestors) > MAX_DEPTH:
            raise RemoteError(
                f"delegated {len(message.ancestors)} times, at most {MAX_DEPTH} are allowed: "
                + " > ".join(message.ancestors),
                code=Code.FAILED_PRECONDITION,
                outcome="refused",
            )
        if message.timeout is not None and message.timeout <= 0:
            raise CallTimeoutError("the deadline had passed when the command arrived", outcome="refused")
        handler.check_params(params)
        if self.hands.full:
            raise _refusal(
                f"{self.key} is full: {self.hands.active} commands in hand, {self.hands.capacity} at once",
                Code.RESOURCE_EXHAUSTED,
            )
        solo = message.extensions.get("solo") == "true"
        if self._solo is not None:
            raise _refusal(f"{self.key} works on a command that must be alone", Code.RESOURCE_EXHAUSTED)
        deadline = None if message.timeout is None else boottime() + message.timeout
        context = Context(
            node=self.key,
            capability=action,
            message=message,
            params=params,
            deadline=deadline,
            say=lambda data: self._say(delivery, message, data),
            look=self._look,
        )
        handling = Handling(self.key, message, deadline)
        return Work(delivery, message, handler, context, handling, solo=solo)

    def _say(self, delivery: Delivery, message: Message, data: dict[str, Any]) -> None:
        """Send a progress event; called from any thread."""
        self._hop.post(self._progress, delivery, message, data)

    def _progress(self, delivery: Delivery, message: Message, data: dict[str, Any]) -> None:
        try:
            delivery.progress(Message.event("progress", data, source=self.source, correlation=message.id))
        except MessageError as error:
            logger.warning("%s: a progress event of %s was not sent: %s", self.key, message.action, error)

    def _start_next(self) -> None:
        started = False
        while (work := self.hands.next(self._held)) is not None:
            work.delivery.start(once=work.handler.capability.idempotent is False)
            self._to_start.append(work)
            started = True
        if started and not self._start_planned:
            # All commands that arrive in one go are announced with one write, then started with one hop.
            self._start_planned = True
            asyncio.get_running_loop().call_soon(self._flush_starts)

    def _flush_starts(self) -> None:
        self._start_planned = False
        batch, self._to_start = self._to_start, []
        waiting = self._consumer.flush() if self._consumer is not None else None
        if waiting is None:
            self._begin(batch)
        else:
            # The start notice is not out yet: work begins when it is, so that a death leaves no doubt.
            waiting.add_done_callback(lambda _: self._begin(batch))

    def _begin(self, batch: list[Work]) -> None:
        alive = [work for work in batch if work.stage is Stage.RUNNING]
        if alive:
            for work in alive:
                if work.entry is not None:
                    work.entry.begun = True
            self._run(alive)

    def flush(self) -> None:
        """Push out the notice that work has begun, to one who joined it late."""
        if self._consumer is not None:
            self._consumer.flush()

    def _on_cancel(self, work: Work) -> None:
        if work.stage is Stage.DONE:
            return
        if work.stage is Stage.RUNNING:
            self._stop_running(work, "the caller took the command back")
        error = CallCancelledError(
            "taken back by the caller", outcome="unknown" if work.stage is Stage.RUNNING else "refused"
        )
        self.finish(work, Message.error_for(work.message, error, source=self.source))

    def _expire(self, work: Work) -> None:
        """A deadline frees the slot even if the handler hangs."""
        if work.stage is Stage.DONE:
            return
        waited = work.stage is Stage.WAITING
        if not waited:
            self._stop_running(work, "its deadline has passed")
        error = CallTimeoutError(
            f"{self.key} had no slot for {work.message.action} before its deadline"
            if waited
            else f"{work.message.action} ran past its {work.message.timeout:.3f} s on {self.key} and was stopped",
            outcome="refused" if waited else "unknown",
            retryable=True,
            details=STOPPED,
        )
        self.finish(work, Message.error_for(work.message, error, source=self.source))

    def finish(self, work: Work, answer: Message) -> None:
        """Answer a command and free its slot. The first answer counts. I/O loop only."""
        if not self.hands.drop(work):
            return
        self.seq += 1
        if work is self._solo:
            self._solo = None
        if work.timer is not None:
            work.timer.cancel()
        work.delivery.on_cancel = None
        self.answered += 1
        self.answer(work.delivery, answer)
        if work.entry is not None and self._keyed is not None:
            self._keyed.finished(work.entry)
        self._start_next()
        if self._askers.waiting:
            self._askers.look()
        if self.hands.empty:
            self._idle.set()
        self._changed()

    def ended(self, work: Work, answer: Message | None) -> None:
        """A handler has come to its end with a command that has a key; None: it was never called. I/O loop only."""
        if self._keyed is not None:
            self._keyed.ended(work, answer)

    def answer(self, delivery: Delivery, answer: Message) -> None:
        """Answer a delivery; the load rides along."""
        answer.load = self.load(delivery.sender)
        try:
            delivery.reply(answer)
        except MessageError as error:
            # Too large, or not JSON: the caller must hear that, not silence.
            reply = Message.error_for(
                delivery.message,
                RemoteError(f"the answer of {self.key} cannot be sent: {error}", code=Code.INTERNAL),
                source=self.source,
            )
            reply.load = answer.load
            delivery.reply(reply)

    # -- control --------------------------------------------------------------------------------------------------

    def _on_control(self, delivery: Delivery) -> None:
        try:
            self.check_addressee(delivery.message)
        except DeliveryError as error:
            self.answer_error(delivery, error)
            return
        signal = delivery.message.data.get("signal")
        if signal == "ping":
            self.confirm(
                delivery,
                {
                    "node": self.key,
                    "uid": self.uid,
                    "running": [work.message.id for work in self.hands.running],
                    "waiting": [
                        work.message.id for work in self.hands.everything() if work.stage is Stage.WAITING
                    ],
                },
            )
        elif signal == "revoke":
            self._revoke(delivery)
        elif signal == "recall" and self._keyed is not None:
            self._keyed.recall(delivery)
        elif signal == "room":
            if self._closed_for:
                self._say_load(delivery)
            else:
                self._askers.ask(delivery)
        elif not isinstance(signal, str) or not self._control(delivery):
            self.deny(
                delivery, f"{self.key} does not know the signal {str(signal)[:100]!r}", Code.UNIMPLEMENTED
            )

    def _revoke(self, delivery: Delivery) -> None:
        """Hand back commands that have not started: their caller knows a free node."""
        ids = delivery.message.data.get("ids")
        wanted = set(ids) if isinstance(ids, list) and all(isinstance(one, str) for one in ids) else set()
        revoked = [
            work
            for work in self.hands.everything()
            if work.stage is Stage.WAITING and work.message.id in wanted
        ]
        for work in revoked:
            self.give_back(work, f"{self.key} is busy, and its caller knows a free node")
        self.confirm(delivery, {"node": self.key, "revoked": [work.message.id for work in revoked]})

    def _spare(self) -> int:
        """Return how many more commands would start now."""
        return 0 if self._closed_for or self._solo is not None else self.hands.capacity - self.hands.active

    def _say_load(self, delivery: Delivery) -> None:
        """Answer one who asked for room. A node that takes no work says so: its load would mislead."""
        if self._closed_for:
            self.deny(delivery, f"{self.key} {next(iter(self._closed_for.values()))}", Code.UNAVAILABLE)
        else:
            self.confirm(delivery, {"node": self.key, "uid": self.uid})

    def confirm(self, delivery: Delivery, result: Mapping[str, Any]) -> None:
        """Answer a control message with what was done."""
        self.answer(delivery, Message.result_for(delivery.message, dict(result), source=self.source))

    def deny(self, delivery: Delivery, text: str, code: Code) -> None:
        """Answer a control message that could not be served."""
        self.answer(
            delivery,
            Message.error_for(
                delivery.message, RemoteError(text, code=code, outcome="refused"), source=self.source
            ),
        )


def _refusal(text: str, code: Code) -> DeliveryError:
    return DeliveryError(text, code=code, outcome="refused", retryable=True)
