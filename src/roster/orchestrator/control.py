"""Control signals to nodes, each confirmed by the node that it names and seen in the registry before that is reported."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

from roster._clock import boottime
from roster.bus import Message, error_from, tracing
from roster.bus.base import Bus
from roster.bus.message import Kind
from roster.errors import BusUnavailableError, CallTimeoutError, ConfigError, NodeNotFoundError
from roster.orchestrator.query import SelectorLike
from roster.registry import NodeEvent, NodeRecord, Registry

logger = logging.getLogger("roster.orchestrator")

# What an engine keeps of those who wait for answers to what they published is bounded, at 1 000.
_AT_ONCE = 500
_SHOWN_WAIT = 5.0
# Signals after which a node takes no new work, and those after which it does.
_CLOSE, _OPEN = ("pause", "drain", "stop"), ("resume", "undrain")


class Control:
    """Sends one signal to one node at a time or to many: `async with Control(...) as control`.

    A signal is published as `ctl.NAME.NAMESPACE` and carries the uid of the incarnation that is meant: another that has the
    name by then refuses it.

    Args:
        registry: where the effect is looked for; its copy must be there.
        bus: what carries the signal.
        source: who sends, as URI-reference.
    """

    def __init__(self, registry: Registry, bus: Bus, source: str) -> None:
        self._registry = registry
        self._bus = bus
        self._source = source
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._news: dict[str, asyncio.Event] = {}
        self._remove: Callable[[], None] | None = None

    async def __aenter__(self) -> Control:
        self._remove = self._registry.informer.add_listener(self._on_event)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._remove is not None:
            self._remove()

    async def signal(
        self, node: NodeRecord, name: str, data: Mapping[str, Any] | None, timeout: float
    ) -> dict[str, Any]:
        """Send a signal and return what the node confirmed.

        After `shutdown` it returns when the node has left; after those that open or close it for new work when the registry
        shows it, or a little later all the same.

        Args:
            node: the incarnation that is meant.
            name: the signal.
            data: what goes with it.
            timeout: seconds for all of it.

        Raises:
            BusUnavailableError: nobody listens in the node's place.
            CallTimeoutError: no confirmation in time, or it has not left by then.
            CallError: the node refused.
        """
        async with self._slots:
            deadline = boottime() + timeout
            said = await self._confirmed(node, name, data, timeout)
        if node.cordoned and "drain" not in (reasons := list(said.get("reasons") or ())):
            said["reasons"] = [*reasons, "drain"]
        if name == "shutdown":
            if not await self._until(node, lambda now: now is None or now.uid != node.uid, deadline):
                raise CallTimeoutError(
                    f"{node.key} has confirmed, takes no new work, and had {said.get('active_tasks', 'some')} commands to "
                    f"finish: it has not left within {timeout:g} s",
                    outcome="unknown",
                )
        elif name in _CLOSE or (name in _OPEN and not said.get("reasons")):
            drains = name in _CLOSE
            until = min(deadline, boottime() + _SHOWN_WAIT)
            if not await self._until(node, lambda now: _shows(now, node, drains), until):
                logger.warning(
                    "%s has confirmed, but the registry does not show it yet: look again",
                    node.key,
                    extra={"node": node.key, "uid": node.uid},
                )
        return said

    async def _confirmed(
        self, node: NodeRecord, name: str, data: Mapping[str, Any] | None, timeout: float
    ) -> dict[str, Any]:
        message = Message.control(name, data, source=self._source, timeout=timeout, uid=node.uid)
        reply: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

        def on_reply(answer: Message) -> None:
            # Others may have bound themselves to this key.
            if answer.source == f"/{node.key}" and not reply.done():
                reply.set_result(answer)

        try:
            async with asyncio.timeout(timeout):
                key = f"ctl.{node.name}.{node.namespace}"
                handed = await tracing.publish(self._bus, key, message, on_reply=on_reply)
                if not handed:
                    raise BusUnavailableError(
                        f"{node.key} hears nothing: nobody listens in its place on the bus {self._bus.url}"
                    )
                answer = await reply
        except TimeoutError:
            raise CallTimeoutError(
                f"{node.key} has not confirmed {name!r} within {timeout:g} s", outcome="unknown"
            ) from None
        if answer.kind is Kind.ERROR:
            raise error_from(answer)
        result = answer.data.get("result")
        return dict(result) if isinstance(result, Mapping) else {"result": result}

    def _on_event(self, event: NodeEvent) -> None:
        if (news := self._news.get(f"{event.namespace}/{event.name}")) is not None:
            news.set()

    async def _until(
        self, node: NodeRecord, good: Callable[[NodeRecord | None], bool], deadline: float
    ) -> bool:
        """Wait until the registry's record of a node (None: it is gone) is as it should be; return whether it is."""
        news = self._news.setdefault(node.key, asyncio.Event())
        while not good(self._registry.informer.get(node.key)):
            news.clear()
            try:
                async with asyncio.timeout(max(0.0, deadline - boottime())):
                    await news.wait()
            except TimeoutError:
                return False
        return True


async def addressed(
    registry: Registry,
    signal: str,
    nodes: Iterable[str] | None = None,
    selector: SelectorLike = None,
    namespace: str | None = None,
) -> list[NodeRecord]:
    """Return whom a signal goes to, in order of name; the arguments are those of `Orchestrator.control`.

    Raises:
        NodeNotFoundError: a name is not registered, or nothing matches.
        ConfigError: both names and a selector were given.
    """
    await registry.synced()
    if nodes is not None and selector is not None:
        raise ConfigError("a signal goes to the nodes that are named or to those that match, not to both")
    if nodes is not None:
        found = [await registry.get(name, None if "/" in name else namespace) for name in nodes]
    else:
        everybody = await registry.find(selector=selector, namespace=namespace)
        found = [node for node in everybody if node.state != "offline"]
    if not found:
        raise NodeNotFoundError(
            f"nobody to send {signal!r} to: no node that is not offline matches"
            + (f" {selector!r}" if selector is not None else "")
            + (f" in the namespace {namespace}" if namespace is not None else "")
        )
    different = {node.key: node for node in found}
    return [different[key] for key in sorted(different)]


def _shows(now: NodeRecord | None, node: NodeRecord, drains: bool) -> bool:
    if now is None or now.uid != node.uid:
        return True  # it is gone, or another: there is nothing to wait for
    status = now.status
    return status is not None and (status.state == "draining") is drains
