"""The table of the card: every field, what may stand in it, and what it means.

docs/cards-spec.md is this table in prose.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from roster._durations import parse_duration
from roster.cards.card import API_VERSION, KIND
from roster.cards.limits import Limits
from roster.passport.fields import is_capability_name
from roster.passport.rules import (
    Anything,
    Boolean,
    Field,
    JsonSchema,
    MapOf,
    Number,
    Object,
    Report,
    Rule,
    Text,
)
from roster.passport.words import Path

OLDER_API_VERSION = "ai.team/v1"
STATUSES = ("success", "failure", "cancelled")
FALLBACKS = ("abort", "continue", "escalate")
BACKOFFS = ("constant", "linear", "exponential")
MAX_ID = 100
_VARIABLE = re.compile(r"[^\W\d]\w*(?:-\w+)*")
_WORDS = frozenset(("true", "false", "null", "in", "and", "or", "not", "is", "True", "False", "None"))


def is_id(text: str) -> bool:
    """Tell whether `text` may name a step."""
    return 0 < len(text) <= MAX_ID and text.isprintable() and text == text.strip()


def is_variable(text: str) -> bool:
    """Tell whether `text` may name a variable: expressions must be able to say it."""
    return len(text) <= MAX_ID and _VARIABLE.fullmatch(text) is not None and text not in _WORDS


def is_card_file(text: str) -> bool:
    """Tell whether `text` names a file that a card may name: whoever writes a card must not read the machine's files."""
    parts = text.split("/")
    return 0 < len(text) <= 255 and text.isprintable() and "\\" not in text and not {"", ".."} & set(parts)


def seconds(value: Any) -> float | None:
    """Return a duration as a card has it in seconds; None where it is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        # An integer of hundreds of digits is no float.
        return float(value) if 0 <= value < 1e12 else None
    try:
        return parse_duration(value) if isinstance(value, str) else None
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Duration:
    """A number of seconds, or text such as `1h30m`.

    Attributes:
        most: seconds at most.
        zero: whether 0 is one.
    """

    most: float
    zero: bool = False

    def check(self, value: Any, path: Path, report: Report) -> None:
        """Report what is no such duration."""
        found = seconds(value)
        if found is None or found > self.most or (found == 0 and not self.zero):
            bounds = f"from 0 to {self.most:g}" if self.zero else f"above 0 and at most {self.most:g}"
            report.expected(path, f"a duration {bounds} seconds, such as 30, 5s or 1h30m", value)

    def schema(self) -> JsonSchema:
        """Return what JSON Schema can say of it."""
        return {"type": ["number", "string"]}


@dataclass(frozen=True, slots=True)
class Either:
    """What one of two rules accepts."""

    first: Rule
    second: Rule
    expected: str

    def check(self, value: Any, path: Path, report: Report) -> None:
        """Report what neither accepts."""
        for rule in (self.first, self.second):
            trial = Report()
            rule.check(value, path, trial)
            if not trial.faults:
                return
        report.expected(path, self.expected, value)

    def schema(self) -> JsonSchema:
        """Return the rule as JSON Schema."""
        return {"anyOf": [self.first.schema(), self.second.schema()]}


def _one_of(*values: str) -> Text:
    shown = ", ".join(f'"{value}"' for value in values)
    return Text(f"text that is one of {shown}", frozenset(values).__contains__, {"enum": list(values)})


_ANY_TEXT = Text()
_SHORT = Text(
    "text of 1 to 255 printable characters", lambda text: 0 < len(text) <= 255 and text.isprintable()
)
_VERSION = Either(_SHORT, Number(0, 1e9, whole=False), "text or a number, such as 1.0")
_ID = Text(f"text of 1 to {MAX_ID} printable characters", is_id)
_NAME = Text(
    "the name of a variable (letters, digits and _, also - inside; a letter or _ first; no word of the language)",
    is_variable,
)
_CAPABILITY = Text(
    "the name of a capability (1-63 of ASCII letters, digits, _, . and -, a letter first)", is_capability_name
)
_CONDITION = Either(_ANY_TEXT, Boolean(), "an expression such as ${score} >= 8")
_SELECTOR = Either(
    _ANY_TEXT, MapOf(_ANY_TEXT, Anything()), "a selector: text such as role=writer, or a map of labels"
)
_TARGET = Text('the id of a step in this list of steps, or "complete"', is_id)
_FALLBACK = Text('"abort", "continue", "escalate", or the id of a step', is_id)
_CARD = Text(
    "the file of a card in this card's folder or below it, such as parts/research.yaml",
    lambda text: is_card_file(text),
)


@dataclass(frozen=True, slots=True)
class Values:
    """A map of names to any JSON values, null too."""

    names: Text

    def check(self, value: Any, path: Path, report: Report) -> None:
        """Report what is no map, or wrong in a key."""
        if not isinstance(value, dict):
            report.expected(path, "a map", value)
            return
        MapOf(self.names, Anything()).check(dict.fromkeys(value, True), path, report)

    def schema(self) -> JsonSchema:
        """Return the rule as JSON Schema."""
        return {"type": "object"}


METADATA = Object(
    {
        "name": Field(_SHORT, "What the card is called.", examples=("article_generation",)),
        "id": Field(_SHORT, "A name for programs; any text, a UUID or not."),
        "version": Field(_VERSION, "The card's own version; any text.", examples=("1.0",)),
        "description": Field(_ANY_TEXT, "What it is for."),
        "author": Field(_ANY_TEXT, "Who wrote it."),
        "labels": Field(MapOf(_SHORT, _ANY_TEXT), "To sort cards by."),
        "created_at": Field(Anything(), "When it was written; nothing depends on it."),
        "spec_version": Field(
            Anything(), "The version of the format it was written to; nothing depends on it."
        ),
    }
)
_VARIABLES = Field(
    Values(_NAME), "Variables and their first values; null is a value.", examples=({"draft": None},)
)


def spec(limits: Limits) -> Object:
    """Return the rule of `spec`; the steps are looked at one by one."""
    return Object(
        {
            "variables": _VARIABLES,
            "steps": Field(Anything(), "What is done.", required=True),
            "timeout": Field(Duration(limits.total_time), "What a run may take in all."),
            "timeout_seconds": Field(Duration(limits.total_time), "The same, as older cards say it."),
            "max_visits": Field(
                Number(1, limits.max_visits), "How often each step may be entered in one run."
            ),
        }
    )


def card() -> Object:
    """Return the rule of a card with `metadata` and `spec`."""
    return Object(
        {
            "apiVersion": Field(
                _one_of(API_VERSION, OLDER_API_VERSION), "The version of this format.", default=API_VERSION
            ),
            "kind": Field(_one_of(KIND), "What the document is.", default=KIND),
            "metadata": Field(METADATA, "What it is called."),
            "spec": Field(Anything(), "What is done.", required=True),
        }
    )


def bare(limits: Limits) -> Object:
    """Return the rule of a card without `spec`: its steps, variables and names stand at the top."""
    head = {name: field for name, field in card().fields.items() if name != "spec"}
    return Object({**head, **METADATA.fields, **spec(limits).fields})


def retry(limits: Limits) -> Object:
    """Return the rule of `retry`."""
    return Object(
        {
            "max_attempts": Field(Number(1, limits.attempts), "Tries in all.", default=1),
            "delay": Field(Duration(3600, zero=True), "The pause before the second try.", default=0),
            "delay_seconds": Field(Duration(3600, zero=True), "The same, as older cards say it."),
            "backoff": Field(_one_of(*BACKOFFS), "How the pause grows.", default="constant"),
            "on_failure": Field(_FALLBACK, "What follows the last try.", default="abort"),
        }
    )


def steps(limits: Limits) -> Mapping[str, Object]:
    """Return the rule of each kind of step."""
    common = {
        "id": Field(_ID, "Unique in the card; made up where it is left out."),
        "type": Field(_ANY_TEXT, "The kind of step, where its other fields do not say it."),
        "name": Field(_ANY_TEXT, "For people."),
        "description": Field(_ANY_TEXT, "For people."),
        "when": Field(_CONDITION, "The step is skipped where this does not hold."),
        "next": Field(_TARGET, "The step after it; the following one where it is left out."),
        "max_visits": Field(Number(1, limits.max_visits), "How often it may be entered in one run."),
    }
    output = {"output": Field(_NAME, "The variable that gets what the step brings.")}
    wait = Duration(limits.total_time)
    timeout = {
        "timeout": Field(wait, "How long it may take."),
        "timeout_seconds": Field(wait, "The same, as older cards say it."),
    }
    on_timeout = {"on_timeout": Field(_FALLBACK, "What follows a timeout.", default="abort")}
    params = {"params": Field(Values(_ANY_TEXT), "What it is given; expressions may stand anywhere in it.")}
    tries = {"retry": Field(retry(limits), "What follows a failure.")}
    concurrency = {"max_concurrency": Field(Number(1, limits.concurrency), "How many at once.")}
    return {
        "action": Object(
            {
                **common,
                "action": Field(_CAPABILITY, "The capability that does it.", required=True),
                **params,
                **output,
                **timeout,
                **tries,
                "selector": Field(_SELECTOR, "Which nodes may do it."),
                "strategy": Field(_SHORT, "How one of them is chosen."),
                "condition": Field(_CONDITION, "The same as `when`, as older cards say it."),
            }
        ),
        "condition": Object(
            {
                **common,
                "condition": Field(_CONDITION, "What decides.", required=True),
                "then": Field(_TARGET, "The step if it holds."),
                "else": Field(_TARGET, "The step if it does not."),
            }
        ),
        "jump": Object(common),
        "complete": Object(
            {
                **common,
                "status": Field(_one_of(*STATUSES), "How the run has ended.", default="success"),
                "result": Field(Anything(), "What it brings; expressions may stand anywhere in it."),
            }
        ),
        "wait": Object(
            {
                **common,
                **output,
                "event": Field(_SHORT, "The name of the event that it waits for."),
                "duration": Field(wait, "How long it waits."),
                **timeout,
                **on_timeout,
            }
        ),
        "human_checkpoint": Object(
            {
                **common,
                **output,
                "message": Field(_ANY_TEXT, "What the person is shown.", required=True),
                **timeout,
                **on_timeout,
            }
        ),
        "parallel": Object(
            {
                **common,
                **output,
                "branches": Field(
                    Anything(),
                    "A list: each branch a step, a list of steps, or a map with `steps`.",
                    required=True,
                ),
                "wait_for": Field(
                    Anything(), '"all", "any", or how many branches must end well.', default="all"
                ),
                **concurrency,
            }
        ),
        "foreach": Object(
            {
                **common,
                **output,
                "items": Field(Anything(), "The list, or an expression for it.", required=True),
                "as": Field(_NAME, "What the item is called.", default="item"),
                "do": Field(Anything(), "What is done for each: a step, or a list of steps.", required=True),
                **concurrency,
            }
        ),
        "subprocess": Object(
            {
                **common,
                "card": Field(_CARD, "The file of the card that is run.", required=True),
                **params,
                **output,
                **timeout,
                **tries,
            }
        ),
    }


BRANCH = Object(
    {
        "steps": Field(Anything(), "Its steps.", required=True),
        "name": Field(_ANY_TEXT, "For people."),
        "id": Field(_ANY_TEXT, "For people."),
        "description": Field(_ANY_TEXT, "For people."),
    }
)
# How cards call kinds otherwise.
ALIASES = {"execute": "action", "human": "human_checkpoint"}
# What a step without `type` is, by the first of these fields that it has.
TELLING = {
    "action": "action",
    "condition": "condition",
    "branches": "parallel",
    "do": "foreach",
    "card": "subprocess",
    "event": "wait",
    "duration": "wait",
}
