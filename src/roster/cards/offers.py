"""A card against what is on offer: capabilities that nobody has, and params that no contract allows."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from roster.cards.card import ProcessCard
from roster.cards.steps import ActionStep
from roster.errors import DocumentError, Fault
from roster.passport import Capability, SchemaValidator
from roster.passport.rules import Report
from roster.passport.validator import UNKNOWN
from roster.passport.words import Path, escape, quote, show_path


def check_offers(
    card: ProcessCard, offers: Callable[[ActionStep], Sequence[Capability]], known: Collection[str]
) -> list[Fault]:
    """Return what is wrong with a card in the light of who is there.

    Of params, everything is held against the schema that can be known before the run: names, which of them are missing
    where the schema is a JSON Schema (the shorthand's are the node's to judge), and values without an expression in them.
    A step is right if one of the contracts on offer allows it.

    Args:
        card: the card.
        offers: returns the capability as each node declares it that may do a step.
        known: the names of all capabilities, to guess what was meant.
    """
    report = Report(dict(card.places))
    for step in card.steps.values():
        if not isinstance(step, ActionStep):
            continue
        found = offers(step)
        if not found:
            report.fault((*step.path, "action"), _nobody(step, known))
            continue
        complaints = [_against(step, capability) for capability in found]
        if all(complaints):
            for path, message in complaints[0]:
                report.fault((*step.path, "params", *path), message)
    return report.sorted_faults()


def _nobody(step: ActionStep, known: Collection[str]) -> str:
    if step.action in known:
        which = (
            f" that the selector {quote(str(step.selector))} matches"
            if step.selector is not None
            else " in reach"
        )
        return f"the capability {quote(step.action)} is on offer, but by no node{which}"
    near = difflib.get_close_matches(step.action, known, n=1)
    hint = f", did you mean {quote(near[0])}?" if near else ": start a node whose passport declares it"
    return f"no node offers the capability {quote(step.action)}{hint}"


def _against(step: ActionStep, capability: Capability) -> list[tuple[Path, str]]:
    """Return what is wrong with the params of a step by one contract."""
    try:
        schema = capability.caller_json_schema
        if schema is None:
            return []
        faults = SchemaValidator.of(schema).validate(step.params.with_holes(None))
    except DocumentError:
        return []  # whoever declared it wrote it past every check: the node itself has the last word
    places = {show_path(path): path for path in _paths(step.params.source, ())}
    holes = [show_path(path) for path in step.params.holes()]
    out: list[tuple[Path, str]] = []
    for fault in faults:
        if not fault.message.startswith(UNKNOWN) and any(_touch(fault.path, hole) for hole in holes):
            continue  # what it says depends on a value that is not there yet
        path = places.get(fault.path)
        where = "" if path is not None or not fault.path else f"{escape(fault.path)}: "
        out.append((path or (), f"{where}{fault.message} (by the contract of {capability.name})"))
    return out


def _touch(fault: str, hole: str) -> bool:
    """Tell whether a fault is about a hole, about something in it, or about something that it is in."""
    return (
        not fault
        or fault == hole
        or fault.startswith((f"{hole}.", f"{hole}["))
        or hole.startswith((f"{fault}.", f"{fault}["))
    )


def _paths(value: Any, path: Path) -> Iterator[Path]:
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _paths(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _paths(item, (*path, index))
