"""Mock files: which answer each action of a card gets, read strictly; every fault is listed with its line."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import Any, Literal, TypeAlias, cast

from roster import errors
from roster.cards.expressions import Expression
from roster.cards.fields import seconds
from roster.cards.limits import DEFAULTS
from roster.cards.reading import one_document
from roster.cards.syntax import SyntaxFault
from roster.cards.templates import Template, read_template
from roster.errors import CallError, Code, DocumentError
from roster.passport.files import read_file
from roster.passport.reading import Document, locate
from roster.passport.rules import Report
from roster.passport.words import Path, describe, quote, show_path

Word: TypeAlias = Literal["approve", "reject", "skip"]
MAX_ANSWERS = 10_000
_ANSWER = ("result", "error", "delay", "when", "times")
_ERROR = ("type", "code", "message", "retryable")
_SAID = ("answer", "by", "comment", "data")
FIELDS = ("mocks", "default", "events", "approvals")


@dataclass(frozen=True, slots=True)
class Failure:
    """The error that an action is answered with.

    Attributes:
        type: the name of an error of calls, such as `RemoteError`.
        code: its code.
        message: what it says; expressions may stand in it.
        retryable: whether a later try may do better; only shown.
    """

    type: str
    code: str
    message: Template
    retryable: bool


@dataclass(frozen=True, slots=True)
class MockAnswer:
    """One answer to an action.

    Attributes:
        place: where it stands, for messages: `mocks.yaml:3: mocks.write[0]`.
        result: what it brings, where there is no error.
        error: what it fails with.
        delay: seconds that it takes.
        when: it answers only where this holds.
        times: how often it answers; None without end.
    """

    place: str
    result: Template
    error: Failure | None = None
    delay: float = 0.0
    when: Expression | None = None
    times: int | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """What a person says.

    Attributes:
        answer: `approve`, `reject`, or `skip` after a failure.
        data: what the card gets.
    """

    answer: Word
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Mocks:
    """What a card's actions, events and people answer.

    Attributes:
        source: the file, for messages.
        actions: the answers by action.
        default: the answers of all other actions.
        events: what comes with each event that comes.
        approvals: what is said at each step; the last of several goes on being said at a checkpoint.
    """

    source: str = "<mocks>"
    actions: Mapping[str, tuple[MockAnswer, ...]] = field(default_factory=dict)
    default: tuple[MockAnswer, ...] = ()
    events: Mapping[str, Any] = field(default_factory=dict)
    approvals: Mapping[str, tuple[Said, ...]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Mocks:
        """Read a mock file, YAML or JSON.

        Raises:
            DocumentError: it cannot be read, or is wrong; lists every fault with line and column.
        """
        source = os.fspath(path)
        document = one_document(read_file(FilePath(source), DEFAULTS.file), source, DEFAULTS)
        report = Report(document.places)
        mocks = cls()
        if check_map(document.value, (), FIELDS, report, "a map with mocks"):
            mocks = read_mocks(document, document.value, (), source, report)
        if report.faults:
            raise DocumentError(source, report.sorted_faults())
        return mocks

    def under(self, other: Mocks) -> Mocks:
        """Return these with those of another on top, by action, event and step."""
        return replace(
            self,
            actions={**self.actions, **other.actions},
            default=other.default or self.default,
            events={**self.events, **other.events},
            approvals={**self.approvals, **other.approvals},
        )


def read_mocks(document: Document, value: Mapping[str, Any], at: Path, source: str, report: Report) -> Mocks:
    """Read the fields of mocks in a map that may have others; report what is wrong."""
    reader = _Reader(document, source, report)
    actions = reader.entries(value, "mocks", at)
    return Mocks(
        source,
        {name: reader.answers(answer, (*at, "mocks", name)) for name, answer in actions.items()},
        reader.answers(value["default"], (*at, "default")) if value.get("default") is not None else (),
        reader.entries(value, "events", at),
        {
            name: reader.said(said, (*at, "approvals", name))
            for name, said in reader.entries(value, "approvals", at).items()
        },
    )


def check_map(value: Any, path: Path, fields: Iterable[str], report: Report, expected: str = "a map") -> bool:
    """Return whether a value is a map; report what is none, and fields that are not among the known."""
    if not isinstance(value, dict):
        report.expected(path, expected, value)
        return False
    known = list(fields)
    for name in value:
        if name not in known:
            near = difflib.get_close_matches(name[:100], known, n=1)
            hint = f", did you mean {quote(near[0])}?" if near else f": there are {', '.join(known)}"
            report.fault((*path, name), f"unknown field{hint}")
    return True


class _Reader:
    """Reads one file."""

    def __init__(self, document: Document, source: str, report: Report) -> None:
        self._places = document.places
        self._source = source
        self._report = report

    def entries(self, value: Mapping[str, Any], name: str, at: Path) -> dict[str, Any]:
        """Return the map in a field; empty where there is none."""
        found = value.get(name)
        if found is None:
            return {}
        if not isinstance(found, dict):
            self._report.expected((*at, name), "a map", found)
            return {}
        return found

    def answers(self, value: Any, path: Path) -> tuple[MockAnswer, ...]:
        """Read one answer, or a list of them."""
        if not isinstance(value, list):
            return tuple(self._answer(value, path))
        if not value or len(value) > MAX_ANSWERS:
            self._report.expected(path, f"1 to {MAX_ANSWERS} answers", value)
            return ()
        return tuple(
            answer for number, one in enumerate(value) for answer in self._answer(one, (*path, number))
        )

    def _answer(self, value: Any, path: Path) -> Iterable[MockAnswer]:
        report = self._report
        if not check_map(value, path, _ANSWER, report, "an answer (a map with result or error)"):
            return
        if ("result" in value) == ("error" in value):
            report.fault(path, "expected either result or error")
            return
        line, _ = locate(self._places, path) or (None, None)
        where = f"{self._source}:{line}" if line is not None else self._source
        times = value.get("times")
        if times is not None and (type(times) is not int or not 1 <= times <= MAX_ANSWERS):
            report.expected((*path, "times"), f"a whole number from 1 to {MAX_ANSWERS}", times)
            times = None
        yield MockAnswer(
            f"{where}: {show_path(path)}",
            read_template(value.get("result"), (*path, "result"), report),
            self._error(value["error"], (*path, "error")) if "error" in value else None,
            self._delay(value, path),
            self._when(value, path),
            times,
        )

    def _delay(self, value: Mapping[str, Any], path: Path) -> float:
        if "delay" not in value:
            return 0.0
        found = seconds(value["delay"])
        if found is None:
            self._report.expected((*path, "delay"), "a duration, such as 50ms or 2m", value["delay"])
        return found or 0.0

    def _when(self, value: Mapping[str, Any], path: Path) -> Expression | None:
        text = value.get("when")
        if text is None:
            return None
        if isinstance(text, bool):
            text = str(text).lower()
        if not isinstance(text, str):
            self._report.expected((*path, "when"), 'an expression such as ${params.lang} == "de"', text)
            return None
        try:
            return Expression.condition(text)
        except SyntaxFault as fault:
            self._report.fault((*path, "when"), str(fault))
            return None

    def _error(self, value: Any, path: Path) -> Failure:
        report = self._report
        nothing = Failure("RemoteError", str(Code.UNKNOWN), read_template("", path, report), False)
        if not check_map(value, path, _ERROR, report, "an error (a map with message)"):
            return nothing
        kinds = {name: kind for name, kind in vars(errors).items() if _is_call_error(kind)}
        kind = value.get("type", "RemoteError")
        if kind not in kinds:
            report.fault(
                (*path, "type"), f"expected one of {', '.join(sorted(kinds))}, found {describe(kind)}"
            )
            return nothing
        code = value.get("code", str(kinds[kind].code))
        if code not in [str(one) for one in Code]:
            report.fault(
                (*path, "code"), f"expected one of {', '.join(map(str, Code))}, found {describe(code)}"
            )
        message = value.get("message")
        if not isinstance(message, str):
            report.expected((*path, "message"), "text", message)
        retryable = value.get("retryable", False)
        if not isinstance(retryable, bool):
            report.expected((*path, "retryable"), "true or false", retryable)
        return Failure(
            kind, str(code), read_template(message or "", (*path, "message"), report), bool(retryable)
        )

    def said(self, value: Any, path: Path) -> tuple[Said, ...]:
        """Read what a person says: one answer, or a list of them."""
        if not isinstance(value, list):
            return tuple(self._said(value, path))
        return tuple(said for number, one in enumerate(value) for said in self._said(one, (*path, number)))

    def _said(self, value: Any, path: Path) -> Iterable[Said]:
        if isinstance(value, str):
            value = {"answer": value}
        if not check_map(value, path, _SAID, self._report, "approve, reject, skip, or a map with answer"):
            return
        answer = value.get("answer")
        if answer not in ("approve", "reject", "skip"):
            self._report.expected((*path, "answer"), "approve, reject or skip", answer)
            return
        data = value.get("data")
        if data is not None and not isinstance(data, dict):
            self._report.expected((*path, "data"), "a map", data)
            return
        said = {"by": str(value.get("by", "")), "comment": str(value.get("comment", ""))}
        approved = {"approve": True, "reject": False, "skip": None}[answer]
        yield Said(cast("Word", answer), {**(data or {}), "approved": approved, **said})


def _is_call_error(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, CallError) and kind is not CallError
