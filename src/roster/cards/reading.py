"""From a document to a card: every dialect becomes one model, every jump leads to a step, and every fault is listed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from roster.cards import fields
from roster.cards.card import INPUT, RUN, ProcessCard
from roster.cards.limits import Limits
from roster.cards.making import Draft, Maker, either, of_type
from roster.cards.templates import TooLargeError, measure
from roster.errors import DocumentError, Fault
from roster.passport.plain import plain
from roster.passport.reading import Document, read
from roster.passport.rules import Report, check_tree
from roster.passport.words import Path, describe, quote


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of one document.

    Attributes:
        card: the card as far as it could be made out, also where there are faults; None where there is nothing to look at.
        report: faults and warnings.
    """

    card: ProcessCard | None
    report: Report


def parse(text: str | bytes, source: str, limits: Limits) -> ProcessCard:
    """Read a card from text.

    Raises:
        DocumentError: lists every fault.
    """
    return _need(read_card(one_document(text, source, limits), source, limits), source)


def from_dict(obj: Mapping[str, Any], source: str, limits: Limits) -> ProcessCard:
    """Make a card from plain values.

    Raises:
        DocumentError: lists every fault.
    """
    report = Report()
    value = plain(obj, report, limits.text)
    if report.faults:
        raise DocumentError(source, report.sorted_faults())
    return _need(read_card(Document(value, {}), source, limits), source)


def one_document(text: str | bytes, source: str, limits: Limits) -> Document:
    """Return the one document of a text.

    Raises:
        DocumentError: it cannot be read, or holds none or several.
    """
    documents = read(text, source=source, limits=limits.text)
    if not documents:
        raise DocumentError(source, [Fault("", "expected a process card, found no document")])
    return documents[0]


def _need(reading: Reading, source: str) -> ProcessCard:
    if reading.report.faults or reading.card is None:
        raise DocumentError(source, reading.report.sorted_faults())
    return reading.card


def read_card(document: Document, source: str, limits: Limits) -> Reading:
    """Make out a card; nothing is raised for what is wrong with it."""
    report = Report(document.places)
    report.warnings.extend(document.remarks)
    value = document.value
    if not isinstance(value, dict):
        report.fault((), f"expected a process card (a map with steps), found {describe(value)}")
        return Reading(None, report)
    check_tree(value, report)
    is_bare = "spec" not in value
    spec: Any = value
    at: Path = ()
    if is_bare:
        fields.bare(limits).check(value, (), report)
    else:
        fields.card().check(value, (), report)
        spec, at = value.get("spec"), ("spec",)
        for name in ("steps", "variables"):
            if name in value:
                report.fault((name,), f"{name} stands beside spec: move it into spec")
        if spec is not None:
            fields.spec(limits).check(spec, at, report)
    if value.get("apiVersion") == fields.OLDER_API_VERSION:
        report.warn(("apiVersion",), f"{fields.OLDER_API_VERSION} is read as ai-team.dev/v1: write that")
    if not isinstance(spec, dict):
        return Reading(None, report)
    return _Reader(report, limits).card(document, spec, at, is_bare=is_bare, source=source)


class _Reader:
    """The steps of one card."""

    def __init__(self, report: Report, limits: Limits) -> None:
        self._report = report
        self._limits = limits
        self._rules = fields.steps(limits)
        self._ids: dict[str, Path] = {}
        self._broken: set[str] = set()
        self._found = 0

    def card(
        self, document: Document, spec: dict[str, Any], at: Path, *, is_bare: bool, source: str
    ) -> Reading:
        """Make out the card."""
        value = document.value
        variables = of_type(dict, spec.get("variables"), {})
        for name, first in variables.items():
            if name in (INPUT, RUN):
                self._report.fault(
                    (*at, "variables", name), f"{quote(name)} is set by the run itself: rename the variable"
                )
            self._bounded(first, (*at, "variables", name))
        drafts = self._list(spec.get("steps"), (*at, "steps"), 0) if spec.get("steps") is not None else []
        if not drafts or self._found > self._limits.steps:
            return Reading(None, self._report)
        for draft in _all(drafts):
            self._name(draft)
        _make_up_ids(drafts, "step-", self._ids)
        visits = of_type(int, spec.get("max_visits"), self._limits.visits)
        maker = Maker(self._report, self._limits, visits, self._ids, self._broken)
        block = maker.block(drafts)
        metadata = value if is_bare else of_type(dict, value.get("metadata"), {})
        timeout = fields.seconds(either(spec, "timeout", at, self._report)[1])
        stem = PurePath(source).stem if not source.startswith("<") else ""
        version = metadata.get("version")
        card = ProcessCard(
            name=of_type(str, metadata.get("name"), stem or "card"),
            id=of_type(str, metadata.get("id"), None),
            version=None if version is None else str(version),
            description=of_type(str, metadata.get("description"), ""),
            author=of_type(str, metadata.get("author"), ""),
            labels=of_type(dict, metadata.get("labels"), {}),
            variables=variables,
            steps={draft.id: maker.steps[draft.id] for draft in _all(drafts)},
            block=block,
            timeout=self._limits.total_time if timeout is None else timeout,
            limits=self._limits,
            document=value,
            places=document.places,
            warnings=tuple(self._report.sorted_warnings()),
        )
        return Reading(card, self._report)

    def _bounded(self, value: Any, path: Path) -> None:
        try:
            measure(value, self._limits.variable)
        except TooLargeError:
            self._report.fault(path, f"larger than {self._limits.variable} bytes, the limit of a variable")

    # -- finding the steps

    def _list(self, value: Any, path: Path, depth: int) -> list[Draft]:
        """Return the steps of a list; one step may stand without the list around it, inside other steps."""
        if depth > 0 and isinstance(value, dict):
            if "steps" in value and not value.keys() & {"type", *fields.TELLING}:
                fields.BRANCH.check(value, path, self._report)
                return self._list(value["steps"], (*path, "steps"), depth)
            return [draft] if (draft := self._step(value, path, depth)) is not None else []
        if not isinstance(value, list):
            self._report.expected(path, "a list of steps", value)
            return []
        if not value:
            self._report.fault(path, "expected at least one step, found an empty list")
        found = []
        for index, item in enumerate(value):
            if self._found > self._limits.steps:
                break
            draft = self._step(item, (*path, index), depth)
            if draft is not None:
                found.append(draft)
        return found

    def _step(self, value: Any, path: Path, depth: int) -> Draft | None:
        self._found += 1
        if self._found > self._limits.steps:
            self._report.fault(
                path,
                f"more than {self._limits.steps} steps in one card: split it into cards, or raise the limit steps",
            )
            return None
        if not isinstance(value, dict):
            self._report.expected(path, "a step (a map)", value)
            return None
        kind = self._kind(value, path)
        if kind is None:
            if isinstance(said := value.get("id"), str):
                self._broken.add(said)
            return None
        self._rules[kind].check(value, path, self._report)
        draft = Draft(kind, value, path)
        if kind == "parallel":
            inner = self._inner(value.get("branches"), "branches", draft, depth)
        elif kind == "foreach":
            inner = self._inner(None if (do := value.get("do")) is None else [do], "do", draft, depth)
        else:
            return draft
        draft.blocks = inner
        return draft

    def _inner(self, value: Any, name: str, draft: Draft, depth: int) -> list[list[Draft]]:
        path = (*draft.path, name)
        if value is None:
            return []
        if depth >= self._limits.nesting:
            self._report.fault(
                path, f"steps nested deeper than {self._limits.nesting}: flatten them, or use subprocess"
            )
            return []
        if not isinstance(value, list) or not value:
            self._report.expected(path, "a list of branches, at least one", value)
            return []
        if len(value) > self._limits.items:
            self._report.fault(path, f"more than {self._limits.items} branches")
            return []
        places = [path] if name == "do" else [(*path, index) for index in range(len(value))]
        return [self._list(each, place, depth + 1) for each, place in zip(value, places, strict=True)]

    def _kind(self, value: dict[str, Any], path: Path) -> str | None:
        """Return what kind of step it is; report what cannot be told."""
        said = value.get("type")
        if said is not None:
            kind = fields.ALIASES.get(said, said) if isinstance(said, str) else None
            if isinstance(kind, str) and kind in self._rules:
                return kind
            known = ", ".join(f'"{name}"' for name in self._rules)
            hint = _near(said, self._rules) if isinstance(said, str) else ""
            self._report.fault((*path, "type"), f"expected one of {known}, found {describe(said)}{hint}")
            return None
        if "action" in value and not ("condition" in value and value.keys() & {"then", "else"}):
            return "action"
        if "action" in value:
            self._report.fault(
                (*path, "action"),
                "a step does something (action) or decides (condition, then, else), not both: make it two",
            )
            return None
        for name, kind in fields.TELLING.items():
            if name in value:
                return kind
        if value.get("next") is not None:
            return "jump"
        found = ", ".join(quote(key, 20) for key in list(value)[:5]) or "nothing"
        hint = "".join(dict.fromkeys(_near(key, ["action", "condition"]) for key in list(value)[:20]))
        self._report.fault(
            path,
            f"expected a step with action, condition or type (or next alone), found one with {found}{hint}",
        )
        return None

    def _name(self, draft: Draft) -> None:
        said = draft.data.get("id")
        if not isinstance(said, str):
            return
        if said in self._ids:
            line = self._report.places.get((*self._ids[said], "id"))
            first = f", first in line {line[0]}" if line is not None else ""
            self._report.fault(
                (*draft.path, "id"), f"the id {quote(said)} stands in this card twice{first}: rename one"
            )
            return
        self._ids[said] = draft.path
        draft.id = said


def _all(drafts: list[Draft]) -> Iterator[Draft]:
    for draft in drafts:
        yield draft
        for block in draft.blocks:
            yield from _all(block)


def _make_up_ids(drafts: list[Draft], prefix: str, taken: dict[str, Path]) -> None:
    """Give each step without an id one that says where it stands: `step-2`, `research.1.2`."""
    for number, draft in enumerate(drafts, 1):
        if not draft.id:
            made = f"{prefix}{number}"
            while made in taken:
                made += "x"
            taken[made] = draft.path
            draft.id = made
        for index, block in enumerate(draft.blocks, 1):
            _make_up_ids(block, f"{draft.id}.{index}.", taken)


def _near(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word[:100], list(known), n=1)
    return f", did you mean {quote(near[0])}?" if near else ""
