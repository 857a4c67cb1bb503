"""The cards that a card runs: found, right themselves, and none of them running itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from roster.cards.card import ProcessCard
from roster.cards.steps import SubprocessStep
from roster.errors import DocumentError, Fault
from roster.passport.rules import Report
from roster.passport.words import escape, quote

Find: TypeAlias = Callable[[str, str], tuple[str, ProcessCard]]


def check_cards(card: ProcessCard, source: str, find: Find) -> list[Fault]:
    """Return what is wrong with the cards that a card runs, each fault at the step that leads to it.

    A card that would run itself, directly or through others, is refused: nothing bounds how deep that goes.

    Args:
        card: the card.
        source: where it is from.
        find: given `card` of a step and where the card with that step is from, returns where that card is from, and the card
            itself; raises `DocumentError` if it is not there or is wrong.
    """
    report = Report(dict(card.places))
    done: set[str] = set()
    for step in card.steps.values():
        if isinstance(step, SubprocessStep):
            for message in _look(step, (source,), find, card.limits.nesting, done):
                report.fault((*step.path, "card"), message)
    return report.sorted_faults()


def _look(
    step: SubprocessStep, way: tuple[str, ...], find: Find, nesting: int, done: set[str]
) -> Iterator[str]:
    try:
        source, card = find(step.card, way[-1])
    except DocumentError as error:
        more = f" (and {len(error.faults) - 1} more)" if len(error.faults) > 1 else ""
        yield f"the card {quote(step.card)} cannot be run: {error.lines()[0]}{more}"
        return
    if source in way:
        names = " -> ".join(escape(name) for name in (*way[way.index(source) :], source))
        yield f"a card that runs itself: {names}"
        return
    if len(way) >= nesting:
        yield f"cards run by cards, deeper than {nesting}: {' -> '.join(map(escape, (*way, source)))}"
        return
    if source in done:
        return
    for inner in card.steps.values():
        if isinstance(inner, SubprocessStep):
            yield from _look(inner, (*way, source), find, nesting, done)
    # Only behind its own cards: until then it may still be found to run itself.
    done.add(source)
