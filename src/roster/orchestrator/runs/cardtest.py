"""Test files of cards: a card, cases with answers from mocks, and what is expected of each; read strictly, and run."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import Any, get_args

from roster.cards import ProcessCard
from roster.cards.limits import DEFAULTS
from roster.cards.reading import one_document
from roster.errors import CardError, ConfigError, DocumentError
from roster.orchestrator.runs.cardfiles import read_card
from roster.orchestrator.runs.mockfile import FIELDS, Mocks, check_map, read_mocks
from roster.orchestrator.runs.mocks import MockCall, run_mocked
from roster.orchestrator.runs.record import STATUS, RunRecord, StepState
from roster.passport.files import read_file
from roster.passport.reading import Places, locate
from roster.passport.rules import Report
from roster.passport.words import Path, describe, quote, show_path

MAX_CASES = 1000
UNREACHED = "unreached"
_MOST_DIFFERENCES = 20
_SHARED = ("inputs", *FIELDS)
_FILE = ("card", "description", *_SHARED, "cases")
_CASE = ("name", "description", *_SHARED, "expect")
_EXPECT = ("status", "result", "error", "calls", "steps")
_ERROR = ("type", "code", "message", "message~", "step", "field")
_CALL = ("action", "params", "step")
_STATES = (*get_args(StepState), UNREACHED)


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as expected.

    Attributes:
        line: of the expectation in the test file; None where there is none.
        what: where in what came, such as `result.title` or `calls[0].params`.
        message: what was expected, and what came.
    """

    line: int | None
    what: str
    message: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"line": self.line, "what": self.what, "message": self.message}


@dataclass(frozen=True, slots=True)
class CardCase:
    """One case of a test file.

    Attributes:
        name: what it is called.
        line: where it stands.
        inputs: what the card is run with.
        mocks: the answers.
        expect: what is expected.
        path: where that stands in the document.
    """

    name: str
    line: int | None
    inputs: Mapping[str, Any]
    mocks: Mocks
    expect: Mapping[str, Any]
    path: Path


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What came of one case.

    Attributes:
        case: the case.
        differences: what is not as expected; empty when all is.
        record: of the run; None where the mocks did not fit.
        calls: what was called, in order.
    """

    case: CardCase
    differences: tuple[Difference, ...]
    record: RunRecord | None
    calls: tuple[MockCall, ...]

    @property
    def ok(self) -> bool:
        """Whether all is as expected."""
        return not self.differences


@dataclass(frozen=True, slots=True)
class CardTest:
    """A test file.

    Attributes:
        source: the file.
        card: the card's file.
        cases: in the order of the file.

    Example:
        >>> test = CardTest.load("article_test.yaml")
        >>> [(await run_case(test, case)).ok for case in test.cases]
        [True, True]
    """

    source: str
    card: str
    cases: tuple[CardCase, ...]
    places: Places = field(repr=False)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CardTest:
        """Read a test file, YAML or JSON, and the card that it names.

        Raises:
            DocumentError: one of them cannot be read, or is wrong; lists every fault with line and column.
        """
        source = os.fspath(path)
        document = one_document(read_file(FilePath(source), DEFAULTS.file), source, DEFAULTS)
        report = Report(document.places)
        value = document.value
        made = cls(source, "", (), document.places)
        if check_map(value, (), _FILE, report, "a test file (a map with card and cases)"):
            name = value.get("card")
            steps: set[str] | None = None
            if not isinstance(name, str) or not name:
                report.expected(("card",), "the file of a card, as seen from this file", name)
                name = ""
            else:
                name = os.path.normpath(FilePath(source).parent / name)
                steps = _steps(*read_card(name))
            reader = _Reader(source, document, report, steps)
            shared = reader.mocks(value, ())
            inputs = reader.inputs(value, ())
            made = replace(made, card=name, cases=tuple(reader.cases(value.get("cases"), inputs, shared)))
        if report.faults:
            raise DocumentError(source, report.sorted_faults())
        return made


def _steps(card: ProcessCard, inner: Mapping[str, ProcessCard]) -> set[str]:
    return {step for one in (card, *inner.values()) for step in one.steps}


class _Reader:
    """Reads the cases of one file."""

    def __init__(self, source: str, document: Any, report: Report, steps: set[str] | None) -> None:
        self._source = source
        self._document = document
        self._report = report
        self._steps = steps

    def mocks(self, value: Mapping[str, Any], at: Path) -> Mocks:
        """Read mocks: here, or in a file that is named."""
        named = value.get("mocks")
        if not isinstance(named, str):
            return read_mocks(self._document, value, at, self._source, self._report)
        rest = {name: one for name, one in value.items() if name != "mocks"}
        here = read_mocks(self._document, rest, at, self._source, self._report)
        try:
            return Mocks.load(os.path.normpath(FilePath(self._source).parent / named)).under(here)
        except DocumentError as error:
            more = f" (and {len(error.faults) - 1} more)" if len(error.faults) > 1 else ""
            self._report.fault((*at, "mocks"), f"{error.lines()[0]}{more}")
            return here

    def inputs(self, value: Mapping[str, Any], at: Path) -> Mapping[str, Any]:
        """Read inputs."""
        inputs = value.get("inputs")
        if inputs is None:
            return {}
        if not isinstance(inputs, dict):
            self._report.expected((*at, "inputs"), "a map", inputs)
            return {}
        return inputs

    def cases(self, value: Any, inputs: Mapping[str, Any], shared: Mocks) -> Iterator[CardCase]:
        """Read the cases."""
        report = self._report
        if not isinstance(value, list) or not 1 <= len(value) <= MAX_CASES:
            report.expected(("cases",), f"1 to {MAX_CASES} cases", value)
            return
        names: set[str] = set()
        for number, one in enumerate(value):
            at: Path = ("cases", number)
            if not check_map(one, at, _CASE, report, "a case (a map with expect)"):
                continue
            name = one.get("name", f"case {number + 1}")
            if not isinstance(name, str) or not name:
                report.expected((*at, "name"), "text", name)
                name = f"case {number + 1}"
            if name in names:
                report.fault((*at, "name"), f"the name {quote(name)} stands in this file twice: rename one")
            names.add(name)
            self._expect(one.get("expect"), (*at, "expect"))
            yield CardCase(
                name,
                (locate(self._document.places, at) or (None, None))[0],
                {**inputs, **self.inputs(one, at)},
                replace(shared.under(self.mocks(one, at)), source=self._source),
                one.get("expect") if isinstance(one.get("expect"), dict) else {},
                (*at, "expect"),
            )

    def _expect(self, value: Any, at: Path) -> None:
        report = self._report
        if not check_map(value, at, _EXPECT, report, "a map with status, result, error, calls or steps"):
            return
        if not value:
            report.fault(at, f"nothing is expected: there are {', '.join(_EXPECT)}")
        statuses = sorted(set(STATUS.values()))
        if "status" in value and value["status"] not in statuses:
            report.expected((*at, "status"), f"one of {', '.join(statuses)}", value["status"])
        if "error" in value and check_map(value["error"], (*at, "error"), _ERROR, report, "a map"):
            for name, text in value["error"].items():
                if name in _ERROR and not isinstance(text, str):
                    report.expected((*at, "error", name), "text", text)
            self._pattern(value["error"].get("message~"), (*at, "error", "message~"))
        self._calls(value.get("calls"), (*at, "calls"))
        if "steps" in value and self._map(value["steps"], (*at, "steps")):
            for name, state in value["steps"].items():
                if self._steps is not None and name not in self._steps:
                    report.fault((*at, "steps", name), f"the card has no step {quote(name)}")
                if state not in _STATES:
                    report.expected((*at, "steps", name), f"one of {', '.join(_STATES)}", state)

    def _map(self, value: Any, at: Path) -> bool:
        if not isinstance(value, dict):
            self._report.expected(at, "a map", value)
        return isinstance(value, dict)

    def _calls(self, value: Any, at: Path) -> None:
        if value is None:
            return
        if not isinstance(value, list):
            self._report.expected(at, "a list of calls", value)
            return
        for number, call in enumerate(value):
            here = (*at, number)
            if check_map(call, here, _CALL, self._report, "a call (a map with action)") and not isinstance(
                call.get("action"), str
            ):
                self._report.expected((*here, "action"), "the name of a capability", call.get("action"))

    def _pattern(self, text: Any, at: Path) -> None:
        if not isinstance(text, str):
            return
        try:
            re.compile(text)
        except re.error as error:
            self._report.fault(at, f"no regular expression: {error}")


async def run_case(test: CardTest, case: CardCase) -> CaseResult:
    """Run one case, and compare."""
    calls: list[MockCall] = []
    try:
        record = await run_mocked(test.card, case.inputs, case.mocks, run_id="test", calls=calls)
    except (ConfigError, CardError) as error:
        return CaseResult(case, (Difference(case.line, "mocks", str(error)),), None, tuple(calls))
    found = await asyncio.to_thread(lambda: list(_differences(test.places, case, record, calls)))
    if len(found) > _MOST_DIFFERENCES:
        left = len(found) - _MOST_DIFFERENCES
        found = [*found[:_MOST_DIFFERENCES], Difference(None, "...", f"and {left} more differences")]
    return CaseResult(case, tuple(found), record, tuple(calls))


def _differences(
    places: Places, case: CardCase, record: RunRecord, calls: Sequence[MockCall]
) -> Iterator[Difference]:
    expect = case.expect

    def at(path: Path, what: str, message: str) -> Difference:
        line, _ = locate(places, (*case.path, *path)) or (None, None)
        return Difference(line, what, message)

    def compare(expected: Any, found: Any, path: Path) -> Iterator[Difference]:
        for where, message in _compare(expected, found, path):
            yield at(where, show_path(where), message)

    error = record.error or {}
    if "status" in expect and expect["status"] != record.status:
        said = f" ({error.get('type') or error.get('code')}: {error.get('message')})" if error else ""
        yield at(("status",), "status", f"expected {expect['status']}, found {record.status}{said}")
    if "result" in expect:
        yield from compare(expect["result"], record.result, ("result",))
    for name, wanted in expect.get("error", {}).items():
        found = error.get(name.removesuffix("~"))
        if name == "message~":
            if re.search(wanted, str(found or "")) is None:
                yield at(
                    ("error", name),
                    "error.message",
                    f"expected one like {quote(wanted)}, found {describe(found)}",
                )
        elif found != wanted:
            yield from compare(wanted, found, ("error", name))
    if "calls" in expect:
        yield from _of_calls(expect["calls"], calls, at, compare)
    states = {step.id: step.state for step in record.steps}
    for name, wanted in expect.get("steps", {}).items():
        found = states.get(name, UNREACHED)
        if found != wanted:
            yield at(("steps", name), show_path(("steps", name)), f"expected {wanted}, found {found}")


def _of_calls(
    expected: Sequence[Mapping[str, Any]], calls: Sequence[MockCall], at: Any, compare: Any
) -> Iterator[Difference]:
    for number, wanted in enumerate(expected[: len(calls)]):
        call = calls[number]
        found = {"action": call.action, "params": call.params, "step": call.step}
        for name, value in wanted.items():
            yield from compare(value, found[name], ("calls", number, name))
    if len(expected) != len(calls):
        made = ", ".join(f"{call.action} (step {call.step})" for call in calls[:20]) or "none"
        yield at(("calls",), "calls", f"expected {len(expected)} calls, found {len(calls)}: {made}")


def _compare(expected: Any, found: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Yield each place where two JSON values differ."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for name in [*expected, *(name for name in found if name not in expected)]:
            here = (*path, name)
            if name not in found:
                yield here, f"expected {describe(expected[name])}, and there is none"
            elif name not in expected:
                yield here, f"found {describe(found[name])}, and none was expected"
            else:
                yield from _compare(expected[name], found[name], here)
    elif isinstance(expected, list) and isinstance(found, list):
        for number, (one, other) in enumerate(zip(expected, found, strict=False)):
            yield from _compare(one, other, (*path, number))
        if len(expected) != len(found):
            yield path, f"expected {len(expected)} items, found {len(found)}"
    elif (type(expected) is not type(found) and not _numbers(expected, found)) or expected != found:
        yield path, f"expected {describe(expected)}, found {describe(found)}"


def _numbers(one: Any, other: Any) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other))
