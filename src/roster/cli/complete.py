"""What Tab offers: names from the registry and the database of runs, within a short deadline, silent when there are none."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from roster.orchestrator.runs.book import Book
    from roster.registry import NodeRecord

DEADLINE = 1.0
_MOST = 200
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
        return [kind for kind in ("nodes", "capabilities", "runs") if kind.startswith(incomplete)]
    if words[0].startswith("c"):
        return complete_capabilities(ctx, incomplete)
    if words[0].startswith("r"):
        return complete_runs(incomplete)
    return complete_nodes(ctx, incomplete)


def complete_runs(incomplete: str) -> list[str]:
    """Offer the youngest runs."""
    return _offer_runs(incomplete, lambda book: [run.id for run in book.list(limit=_MOST)])


def complete_waiting(incomplete: str) -> list[str]:
    """Offer runs that have not ended."""
    return _offer_runs(
        incomplete,
        lambda book: [run.id for run in book.list(states=("waiting", "running", "paused"), limit=_MOST)],
    )


def complete_cards(incomplete: str) -> list[str]:
    """Offer the names of cards that have runs."""
    return _offer_runs(incomplete, lambda book: [run.card for run in book.list(limit=_MOST)])


def complete_paused(incomplete: str) -> list[str]:
    """Offer cards and runs, as `roster pause` names them."""
    return _offer_runs(
        incomplete,
        lambda book: [
            word for run in book.list(limit=_MOST) for word in (f"card/{run.card}", f"run/{run.id}")
        ],
    )


def _offer_runs(incomplete: str, words: Callable[[Book], Iterable[str]]) -> list[str]:
    from roster.orchestrator.runs.book import Book

    found: set[str] = set()

    def look() -> None:
        try:
            book = Book()
            try:
                found.update(words(book))
            finally:
                book.close()
        except Exception:  # noqa: BLE001 - Tab must never print a traceback into somebody's prompt
            return

    # A thread that is left behind when the database hangs: Tab does not wait for it.
    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    looking.join(DEADLINE)
    return sorted(
        word
        for word in tuple(found)
        if word.startswith(incomplete) and _PLAIN.match(word.partition("/")[2] or word)
    )


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
