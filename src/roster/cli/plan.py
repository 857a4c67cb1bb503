"""`roster run CARD --dry-run`: the steps of a card, and who would do each at this moment. Nothing is begun or written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from roster._durations import show_duration
from roster.cli.encode import to_json
from roster.cli.table import Column
from roster.errors import AllNodesBusyError, CardError, NoCapableNodesError

if TYPE_CHECKING:
    from roster.cards import Block, ProcessCard, Step
    from roster.cards.templates import Template
    from roster.cli.run_card import Form
    from roster.cli.session import Session
    from roster.orchestrator import Orchestrator

_SHOWN_PARAMS = 60
_UNKNOWN = "..."


@dataclass(frozen=True, slots=True)
class Planned:
    """One step of the plan.

    Attributes:
        id: the step's.
        depth: how deep it stands in others.
        kind: of step.
        action, selector, strategy: of an action.
        what: what it does, for people.
        params: of an action, as far as they are known; what is not is `...`.
        node: who would do it now.
        others: how many further nodes could.
        problem: why nobody would.
        nobody: whether nobody can at all, busy or not.
    """

    id: str
    depth: int
    kind: str
    what: str = ""
    action: str | None = None
    selector: str | None = None
    strategy: str | None = None
    params: Any = None
    node: str | None = None
    others: int = 0
    problem: str | None = None
    nobody: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return it for programs."""
        common = {"id": self.id, "depth": self.depth, "kind": self.kind, "what": self.what}
        if self.action is None:
            return common
        return {
            **common,
            "action": self.action,
            "selector": self.selector,
            "strategy": self.strategy,
            "params": self.params,
            "node": self.node,
            "others": self.others,
            "problem": self.problem,
        }


def show_plan(session: Session, card: ProcessCard, inputs: Mapping[str, Any], form: Form | None) -> int:
    """Print the plan of a card; return the exit status: 7 where nobody can do a step.

    Raises:
        StoreError: the registry cannot be asked.
        CardError: an input is over the limits.
    """
    from roster.cards import ForeachStep

    scope = card.start(inputs, run_id="dry-run")
    # A variable that some step sets may be another by the time that it is read.
    changing = {step.output for step in card.steps.values() if step.output is not None}
    loops = [step for step in card.steps.values() if isinstance(step, ForeachStep)]
    changing |= {name for loop in loops for name in (loop.variable, loop.variable_index)}
    known = {
        name: value
        for name, value in scope.items()
        if name not in changing and name not in ("run", "task_id")
    }
    steps = session.run(_plan(session, card, known))
    nobody = [step for step in steps if step.nobody]
    if form is not None:
        document = {"card": card.name, "ok": not nobody, "steps": [step.to_dict() for step in steps]}
        if form == "raw":
            session.out.json(document, compact=True)
        else:
            session.out.data(document, form)
    else:
        _print(session, steps)
    if nobody:
        names = ", ".join(f"{step.id} ({step.action})" for step in nobody[:10])
        session.out.error(
            f"nobody can do {len(nobody)} of {len(steps)} steps of {card.name}: {names}; start nodes that can, or see "
            "'roster explain'"
        )
        return NoCapableNodesError.exit_code
    return 0


def _print(session: Session, steps: list[Planned]) -> None:
    columns = [
        Column("STEP"),
        Column("KIND"),
        Column("WHAT", gives_way=True),
        Column("NODE"),
        Column("OTHERS"),
    ]
    rows = [
        [
            "  " * step.depth + step.id,
            step.kind,
            step.what,
            (step.node or "nobody") if step.action else "",
            str(step.others) if step.node else "",
        ]
        for step in steps
    ]
    session.out.table(columns, rows)
    for step in steps:
        if step.problem:
            session.out.warning(f"{step.id}: {step.problem}")


async def _plan(session: Session, card: ProcessCard, scope: Mapping[str, Any]) -> list[Planned]:
    from roster.cards import ActionStep

    out: list[Planned] = []
    async with session.orchestrator() as orchestrator:
        for step, depth in _walk(card, card.block, 0):
            if isinstance(step, ActionStep):
                out.append(await _action(orchestrator, step, depth, scope))
            else:
                out.append(Planned(step.id, depth, _kind(step), _what(step)))
    return out


def _walk(card: ProcessCard, block: Block, depth: int) -> Iterator[tuple[Step, int]]:
    for name in block.steps:
        step = card.steps[name]
        yield step, depth
        for inner in step.blocks:
            yield from _walk(card, inner, depth + 1)


async def _action(orchestrator: Orchestrator, step: Any, depth: int, scope: Mapping[str, Any]) -> Planned:
    selector = None if step.selector is None else str(step.selector)
    params = _params(step.params, scope, step.id)
    text = to_json(params, indent=None)
    shown = text if len(text) <= _SHOWN_PARAMS else text[: _SHOWN_PARAMS - 3] + "..."
    facts = [step.action, f"-l {selector}" if selector else "", shown]
    common: dict[str, Any] = {
        "id": step.id,
        "depth": depth,
        "kind": "action",
        "what": " ".join(fact for fact in facts if fact),
        "action": step.action,
        "selector": selector,
        "strategy": step.strategy,
        "params": params,
    }
    options: dict[str, Any] = {"selector": step.selector}
    sticky = {"strategy": step.strategy, "sticky_key": "dry-run" if step.strategy == "sticky" else None}
    try:
        node = await orchestrator.pick(step.action, **options, **sticky)
    except (NoCapableNodesError, AllNodesBusyError) as error:
        return Planned(**common, problem=str(error), nobody=isinstance(error, NoCapableNodesError))
    rows = await orchestrator.explain(step.action, **options)
    return Planned(**common, node=node.key, others=sum(row.candidate for row in rows) - 1)


def _params(template: Template, scope: Mapping[str, Any], step: str) -> Any:
    """Return params as far as they are known now, one by one."""
    from roster.cards.templates import read_template
    from roster.passport.rules import Report

    known = {}
    for name, value in template.source.items():
        one = read_template(value, (), Report())
        try:
            known[name] = one.fill(scope, step=step, field=name)
        except CardError:
            known[name] = one.with_holes(_UNKNOWN)
    return known


def _kind(step: Step) -> str:
    from roster.orchestrator.runs.writes import kind_of

    return kind_of(step)


def _what(step: Any) -> str:
    from roster import cards

    match step:
        case cards.ConditionStep():
            return f"then {step.then or 'complete'}, else {step.otherwise or 'complete'}"
        case cards.JumpStep():
            return f"to {step.next or 'complete'}"
        case cards.CompleteStep():
            return step.status
        case cards.WaitStep():
            waits = "for an event" if step.event is not None else show_duration(step.duration)
            return f"{waits}{f', at most {show_duration(step.timeout)}' if step.event is not None else ''}"
        case cards.CheckpointStep():
            return f"a person, at most {show_duration(step.timeout)}"
        case cards.ParallelStep():
            return f"{step.need} of {len(step.branches)} branches, {step.max_concurrency} at once"
        case cards.ForeachStep():
            return f"each {step.variable}, {step.max_concurrency} at once"
        case cards.SubprocessStep():
            return step.card
    return ""
