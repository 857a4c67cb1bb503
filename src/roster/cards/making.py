"""From what stands in a step to the step: each dialect is read, each jump resolved, each expression compiled."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any, TypeVar

from roster.cards import fields
from roster.cards.card import COMPLETE, GIVEN, INPUT, RUN
from roster.cards.expressions import Expression
from roster.cards.limits import Limits
from roster.cards.steps import (
    ActionStep,
    Block,
    CheckpointStep,
    CompleteStep,
    ConditionStep,
    Fallback,
    ForeachStep,
    JumpStep,
    ParallelStep,
    Retry,
    Step,
    SubprocessStep,
    WaitStep,
)
from roster.cards.syntax import Literal, SyntaxFault
from roster.cards.templates import Template, read_template
from roster.errors import SelectorError
from roster.passport import Selector
from roster.passport.rules import Report
from roster.passport.words import Path, quote

T = TypeVar("T")


@dataclass(slots=True)
class Draft:
    """A step that has been found, before it is known where it leads."""

    kind: str
    data: dict[str, Any]
    path: Path
    id: str = ""
    blocks: list[list[Draft]] = field(default_factory=list)


class Maker:
    """Makes the steps of a card, block by block.

    Args:
        report: where faults go.
        limits: the bounds of the card.
        visits: how often a step may be entered that does not say.
        ids: every id of the card, and where it stands.
        broken: ids of steps that could not be made out, which has been said.

    Attributes:
        steps: what has been made, by id.
    """

    def __init__(
        self, report: Report, limits: Limits, visits: int, ids: Mapping[str, Path], broken: Set[str]
    ) -> None:
        self.report = report
        self.limits = limits
        self.visits = visits
        self.steps: dict[str, Step] = {}
        self._ids = ids
        self._broken = broken

    def block(self, drafts: list[Draft]) -> Block:
        """Make the steps of a list."""
        inside = {draft.id: draft for draft in drafts}
        for index, draft in enumerate(drafts):
            following = drafts[index + 1].id if index + 1 < len(drafts) else None
            self.steps[draft.id] = _StepMaker(self, draft, inside, following).step()
        return Block(tuple(draft.id for draft in drafts))

    def target(
        self, said: str, path: Path, inside: Mapping[str, Any], following: str | None, own: str
    ) -> str | None:
        """Return the id that a jump of the step `own` names.

        What leads nowhere is reported. So that the rest of the card can be judged, it leads to what was probably meant, else
        to the following step.
        """
        if said in inside:
            return said
        if said == COMPLETE:
            return None
        if said in self._broken:
            return following
        if said in self._ids:
            self.report.fault(
                path,
                f"the step {quote(said)} stands in another list of steps: a jump cannot leave or enter one",
            )
            return following
        near = difflib.get_close_matches(said[:100], inside, n=1)
        hint = f", did you mean {quote(near[0])}?" if near else f" (there are {_few(list(inside))})"
        self.report.fault(path, f"no step {quote(said)} in this list of steps{hint}")
        # A step that leads to itself was hardly meant, and would have the rest reported as unreached.
        return near[0] if near and near[0] != own else following

    def inner(self, drafts: list[Draft]) -> Block | None:
        """Make the steps of a block inside another step; None when there are none."""
        return self.block(drafts) if drafts else None


class _StepMaker:
    """One step: its fields, read in every dialect. Where a field is wrong, which has been said, its default stands."""

    def __init__(
        self, maker: Maker, draft: Draft, inside: Mapping[str, Draft], following: str | None
    ) -> None:
        self._maker = maker
        self._draft = draft
        self._inside = inside
        self._following = following
        self._data = draft.data
        self._report = maker.report
        self._limits = maker.limits

    def step(self) -> Step:
        """Make it."""
        data = self._data
        common: dict[str, Any] = {
            "id": self._draft.id,
            "path": self._draft.path,
            "next": self._target("next", self._following),
            "when": self._expression("when"),
            "output": self._output(),
            "max_visits": of_type(int, data.get("max_visits"), self._maker.visits),
            "description": of_type(str, data.get("description"), of_type(str, data.get("name"), "")),
        }
        match self._draft.kind:
            case "action":
                if data.get("condition") is not None:
                    if data.get("when") is not None:
                        self._report.fault(
                            self._at("condition"), "condition and when say the same here: keep one"
                        )
                    common["when"] = self._expression("condition")
                timeout, declared = self._timeout(self._limits.step_timeout)
                return ActionStep(
                    **common,
                    action=of_type(str, data.get("action"), ""),
                    params=self._template("params", {}),
                    timeout=timeout,
                    timeout_declared=declared,
                    retry=self._retry(),
                    selector=self._selector(),
                    strategy=of_type(str, data.get("strategy"), None),
                )
            case "condition":
                if data.get("then") is None and data.get("else") is None:
                    self._report.fault(
                        self._draft.path, "a condition leads somewhere: expected then, else or both"
                    )
                return ConditionStep(
                    **common,
                    condition=self._expression("condition") or Expression(Literal(True)),
                    then=self._target("then", common["next"]),
                    otherwise=self._target("else", common["next"]),
                )
            case "jump":
                if data.get("next") is None:
                    self._report.fault(self._draft.path, "a jump leads somewhere: expected next")
                return JumpStep(**common)
            case "complete":
                return CompleteStep(
                    **common, status=data.get("status") or "success", result=self._template("result", None)
                )
            case "wait":
                return self._wait(common)
            case "human_checkpoint":
                timeout, _ = self._timeout(self._limits.wait_timeout)
                message = self._template("message", "")
                return CheckpointStep(
                    **common,
                    message=message,
                    timeout=timeout,
                    on_timeout=self._fallback(data, (), "on_timeout"),
                )
            case "parallel":
                return self._parallel(common)
            case "foreach":
                return self._foreach(common)
            case _:
                timeout, declared = self._timeout(0.0)
                return SubprocessStep(
                    **common,
                    card=of_type(str, data.get("card"), ""),
                    params=self._template("params", {}),
                    timeout=timeout if declared else None,
                    retry=self._retry(),
                )

    def _wait(self, common: dict[str, Any]) -> Step:
        data = self._data
        event, duration = data.get("event"), fields.seconds(data.get("duration"))
        if (event is None) == (data.get("duration") is None):
            self._report.fault(
                self._draft.path, "a wait is for an event or for a duration: expected one of the two"
            )
        timeout, declared = self._timeout(self._limits.wait_timeout)
        if duration is not None and declared:
            self._report.fault(
                self._at("timeout"), "a wait for a duration ends by itself: remove the timeout"
            )
        return WaitStep(
            **common,
            event=self._template("event", "") if event is not None else None,
            duration=duration,
            timeout=timeout,
            on_timeout=self._fallback(data, (), "on_timeout"),
        )

    def _parallel(self, common: dict[str, Any]) -> Step:
        blocks = [block for drafts in self._draft.blocks if (block := self._maker.inner(drafts)) is not None]
        if not blocks:
            return JumpStep(**common)
        number = len(blocks)
        said = self._data.get("wait_for")
        need = number
        if said == "any":
            need = 1
        elif type(said) is int and 1 <= said <= number:
            need = said
        elif said is not None and said != "all":
            self._report.expected(self._at("wait_for"), f'"all", "any" or a number from 1 to {number}', said)
        concurrency = of_type(int, self._data.get("max_concurrency"), min(number, self._limits.concurrency))
        return ParallelStep(**common, branches=tuple(blocks), need=need, max_concurrency=concurrency)

    def _foreach(self, common: dict[str, Any]) -> Step:
        blocks = [block for drafts in self._draft.blocks if (block := self._maker.inner(drafts)) is not None]
        items = self._template("items", [])
        source = items.source
        if items.constant and not isinstance(source, list):
            self._report.expected(
                self._at("items"), "a list, or an expression for one such as ${files}", source
            )
        elif not items.constant and isinstance(source, str) and not items.whole:
            self._report.fault(
                self._at("items"),
                "expected a list: an expression alone, such as ${files}, found text around it",
            )
        elif isinstance(source, list) and len(source) > self._limits.items:
            self._report.fault(self._at("items"), f"more than {self._limits.items} items")
        if not blocks:
            return JumpStep(**common)
        variable = of_type(str, self._data.get("as"), "item")
        for name in (variable, f"{variable}_index"):
            if name in GIVEN:
                self._report.fault(
                    self._at("as"), f"{quote(name)} is set by the run itself: choose another name"
                )
        return ForeachStep(
            **common,
            items=items,
            variable=variable,
            body=blocks[0],
            max_concurrency=of_type(int, self._data.get("max_concurrency"), 1),
        )

    # -- fields

    def _at(self, *names: str) -> Path:
        return (*self._draft.path, *names)

    def _target(self, name: str, default: str | None) -> str | None:
        said = self._data.get(name)
        if not isinstance(said, str):
            return default
        return self._maker.target(said, self._at(name), self._inside, self._following, self._draft.id)

    def _fallback(self, data: dict[str, Any], inside: tuple[str, ...], name: str) -> Fallback:
        said = data.get(name)
        if not isinstance(said, str):
            return Fallback()
        match said:
            case "abort" | "continue" | "escalate":
                return Fallback(said)
            case _:
                return Fallback(
                    "goto",
                    self._maker.target(
                        said, self._at(*inside, name), self._inside, self._following, self._draft.id
                    ),
                )

    def _retry(self) -> Retry:
        data = of_type(dict, self._data.get("retry"), {})
        delay = fields.seconds(either(data, "delay", self._at("retry"), self._report)[1])
        backoff = data.get("backoff")
        return Retry(
            max_attempts=of_type(int, data.get("max_attempts"), 1),
            delay=delay or 0.0,
            backoff=backoff if backoff in fields.BACKOFFS else "constant",
            on_failure=self._fallback(data, ("retry",), "on_failure"),
        )

    def _timeout(self, default: float) -> tuple[float, bool]:
        found = fields.seconds(either(self._data, "timeout", self._draft.path, self._report)[1])
        return (default, False) if found is None else (found, True)

    def _expression(self, name: str) -> Expression | None:
        said = self._data.get(name)
        if isinstance(said, bool):
            return Expression(Literal(said))
        if not isinstance(said, str):
            return None
        try:
            return Expression.condition(said)
        except SyntaxFault as fault:
            self._report.fault(self._at(name), f"this is no expression: {fault}")
            return None

    def _template(self, name: str, default: Any) -> Template:
        value = self._data.get(name, default)
        return read_template(default if value is None else value, self._at(name), self._report)

    def _output(self) -> str | None:
        said = self._data.get("output")
        if isinstance(said, str) and said in (INPUT, RUN):
            self._report.fault(
                self._at("output"), f"{quote(said)} is set by the run itself: choose another variable"
            )
        return said if isinstance(said, str) else None

    def _selector(self) -> Selector | None:
        said = self._data.get("selector")
        if not isinstance(said, str | dict):
            return None
        try:
            return Selector.parse(said)
        except SelectorError as error:
            self._report.fault(self._at("selector"), str(error))
            return None


def either(data: Mapping[str, Any], name: str, at: Path, report: Report) -> tuple[str, Any]:
    """Return the value of `name`, or of `name_seconds`, with the name that it stands under."""
    other = f"{name}_seconds"
    if data.get(name) is not None and data.get(other) is not None:
        report.fault((*at, other), f"{name} and {other} say the same: keep one")
    return (name, data[name]) if data.get(name) is not None else (other, data.get(other))


def of_type(kind: type[T], value: Any, default: Any) -> Any:
    """Return a value if it has this type, else the default."""
    return value if isinstance(value, kind) and not (kind is int and isinstance(value, bool)) else default


def _few(names: list[str]) -> str:
    shown = ", ".join(map(quote, names[:5]))
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
