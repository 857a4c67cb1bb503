"""Whether a card can be run: every step is reached, every loop can be left, every variable is set before it is used."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from roster.cards.card import ProcessCard
from roster.cards.flow import Flow
from roster.cards.limits import DEFAULTS, Limits
from roster.cards.reading import Reading, one_document, read_card
from roster.cards.steps import ActionStep, Block, CheckpointStep, ParallelStep, SubprocessStep, WaitStep
from roster.cards.variables import Use, Variables
from roster.errors import DocumentError, Fault
from roster.passport.files import Findings
from roster.passport.rules import Report
from roster.passport.words import quote

# A card of rubbish is told of, not retold.
MAX_FAULTS = 1000
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class CardReport(Findings):
    """What was found in one card.

    Attributes:
        source: the file's name.
        card: the card; None where there is a fault.
        faults: everything that is wrong; empty when the card may be run.
        warnings: what is allowed but probably not meant.
    """

    source: str
    card: ProcessCard | None = None
    faults: tuple[Fault, ...] = ()
    warnings: tuple[Fault, ...] = ()


def examine(
    text: str | bytes, *, source: str = "<text>", limits: Limits = DEFAULTS, strategies: Collection[str] = ()
) -> CardReport:
    """Read a card and look at everything that can be wrong with it; nothing is raised for what is.

    Args:
        text: YAML or JSON.
        source: how faults name it.
        limits: its bounds.
        strategies: the names that `strategy` may have; empty when they are not known here.

    Example:
        >>> examine("steps: [{id: a, action: write, next: b}]", source="card.yaml").lines()
        ['card.yaml:1:32: steps[0].next: no step "b" in this list of steps, did you mean "a"?']
    """
    try:
        document = one_document(text, source, limits)
    except DocumentError as error:
        return CardReport(source, faults=error.faults)
    reading = read_card(document, source, limits)
    if reading.card is not None:
        look_into(reading, strategies)
    report = reading.report
    faults = tuple(report.sorted_faults()[:MAX_FAULTS])
    if len(report.faults) > MAX_FAULTS:
        faults = (*faults, Fault("", f"more than {MAX_FAULTS} faults: the rest is not shown"))
    return CardReport(
        source, None if faults else reading.card, faults, tuple(report.sorted_warnings()[:MAX_FAULTS])
    )


def check(card: ProcessCard, *, strategies: Collection[str] = (), source: str = "card") -> None:
    """Look at everything that can be wrong with a card that has been read. Call it before a run.

    Raises:
        DocumentError: lists every fault.
    """
    report = Report(dict(card.places))
    look_into(Reading(card, report), strategies)
    if report.faults:
        raise DocumentError(source, report.sorted_faults()[:MAX_FAULTS])


def look_into(reading: Reading, strategies: Collection[str]) -> None:
    """Report what is wrong with the ways and variables of a card, also of one with other faults."""
    card, report = reading.card, reading.report
    if card is None:
        return
    flow = Flow(card)
    reached = flow.reached()
    _unreached(card, flow, reached, report)
    _endless(flow, reached, report)
    variables = Variables(card, flow, reached)
    for use in variables.unsure():
        _unset(use, variables, card, report)
    for step in card.steps.values():
        if isinstance(step, ParallelStep):
            _rivals(step, card, report)
        if (
            isinstance(step, ActionStep)
            and step.strategy is not None
            and strategies
            and step.strategy not in strategies
        ):
            known = ", ".join(quote(name) for name in strategies)
            report.fault((*step.path, "strategy"), f"expected one of {known}, found {quote(step.strategy)}")
    _times(card, report)


def _unreached(card: ProcessCard, flow: Flow, reached: set[int], report: Report) -> None:
    for step in card.steps.values():
        parent = flow.parent.get(step.id)
        if flow.entry[step.id] in reached or (parent is not None and flow.entry[parent.id] not in reached):
            continue
        report.fault(
            step.path,
            f"no way leads to the step {quote(step.id)}: remove it, or have then, else or next lead to it",
        )


def _endless(flow: Flow, reached: set[int], report: Report) -> None:
    for loop in flow.loops():
        inside = set(loop)
        if loop[0] not in reached or any(
            edge.target not in inside for node in loop for edge in flow.nodes[node].ways
        ):
            continue
        steps = [
            step
            for node in loop
            if (step := flow.nodes[node].step) is not None and flow.nodes[node].role == "step"
        ]
        report.fault(
            steps[0].path,
            f"no way leaves this loop: {_few(step.id for step in steps)}: have a condition lead out of it",
        )


def _unset(use: Use, variables: Variables, card: ProcessCard, report: Report) -> None:
    name = quote(use.name)
    setters = variables.setters.get(use.name)
    if use.never and not setters:
        near = difflib.get_close_matches(use.name[:100], variables.setters, n=1)
        hint = "give it a first value in variables, or have the output of a step before set it"
        report.fault(
            use.path,
            f"nothing sets the variable {name}{f', did you mean {quote(near[0])}?' if near else f': {hint}'}",
        )
    elif use.never and setters:
        line = report.places.get((*card.steps[setters[0]].path, "output"))
        by = f"the step {quote(setters[0])}{f' (line {line[0]})' if line else ''}"
        report.fault(
            use.path,
            f"{name} is used before anything sets it: {by} does, and nothing that it sets there comes here",
        )
    else:
        way = _few(use.way, " -> ")
        report.warn(
            use.path,
            f"{name} is not set on every way here, such as {way}: give it a first value in variables",
        )


def _rivals(step: ParallelStep, card: ProcessCard, report: Report) -> None:
    """Warn where two branches set one variable. Where one branch is enough they race for it, and that is meant."""
    if step.need == 1:
        return
    first: dict[str, int] = {}
    for index, block in enumerate(step.branches):
        for name in dict.fromkeys(_outputs(block, card)):
            if first.setdefault(name, index) != index:
                report.warn(
                    (*step.path, "branches", index),
                    f"{quote(name)} is set in branch {first[name] + 1} too: the later branch in the card counts",
                )


def _outputs(block: Block, card: ProcessCard) -> Iterable[str]:
    for name in block.steps:
        step = card.steps[name]
        if step.output is not None:
            yield step.output
        if isinstance(step, ParallelStep):
            for inner in step.branches:
                yield from _outputs(inner, card)


def _times(card: ProcessCard, report: Report) -> None:
    """Report waits that the whole run has no time for; warn of timeouts that never come to pass."""
    for step in card.steps.values():
        if isinstance(step, WaitStep) and step.duration is not None:
            if step.duration > card.timeout:
                message = f"{step.duration:g} seconds is longer than a run may take in all ({card.timeout:g})"
                report.fault((*step.path, "duration"), message)
            continue
        if isinstance(step, ActionStep):
            declared = step.timeout if step.timeout_declared else None
        elif isinstance(step, SubprocessStep | WaitStep | CheckpointStep):
            declared = step.timeout
        else:
            continue
        for name in ("timeout", "timeout_seconds"):
            where = (*step.path, name)
            if declared is not None and declared > card.timeout and where in report.places:
                report.warn(
                    where, f"{declared:g} seconds is longer than a run may take in all ({card.timeout:g})"
                )


def _few(names: Iterable[str], between: str = ", ") -> str:
    every = list(names)
    shown = [quote(name, 40) for name in every]
    if len(shown) > _SHOWN:
        shown = [*shown[: _SHOWN // 2], "...", *shown[-_SHOWN // 2 :]]
    return between.join(shown)
