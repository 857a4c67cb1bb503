"""What Tab offers: names from the registry, within a short deadline, silent when there are none to be had."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from roster.registry import NodeRecord

DEADLINE = 1.0
# Zsh evaluates what it is offered, and a document may call a capability `$(reboot)`: only plain words are offered.
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")


def complete_namespaces(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer the namespaces that have nodes."""
    return _offer(ctx, incomplete, lambda record: [record.namespace])


def complete_nodes(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer the names of nodes, of the namespace that was asked for if one was."""
    namespace = ctx.params.get("namespace")
    return _offer(
        ctx, incomplete, lambda record: [record.name] if namespace in (None, record.namespace) else []
    )


def complete_capabilities(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer the names of capabilities."""
    return _offer(ctx, incomplete, lambda record: record.capabilities)


def complete_objects(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer kinds for the first word of `get` and its like, and names of that kind for the others."""
    words = ctx.params.get("what") or []
    if not words:
        return [kind for kind in ("nodes", "capabilities") if kind.startswith(incomplete)]
    if words[0].startswith("c"):
        return complete_capabilities(ctx, incomplete)
    return complete_nodes(ctx, incomplete)


def _offer(ctx: typer.Context, incomplete: str, words: Callable[[NodeRecord], Iterable[str]]) -> list[str]:
    import asyncio

    async def names() -> set[str]:
        from roster.registry import Registry

        async with (
            asyncio.timeout(DEADLINE),
            Registry.connect(_registry_url(ctx), sync_timeout=DEADLINE) as registry,
        ):
            return {word for record in await registry.find() for word in words(record)}

    try:
        found = asyncio.run(names())
    except Exception:  # noqa: BLE001 - Tab must never print a traceback into somebody's prompt
        return []
    return sorted(word for word in found if word.startswith(incomplete) and _PLAIN.match(word))


def _registry_url(ctx: typer.Context) -> str | None:
    at: Any = ctx  # Typer has two types for one context
    while at is not None:
        if isinstance(url := at.params.get("registry_url"), str):
            return url
        at = at.parent
    return None
