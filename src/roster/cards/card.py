"""A process card as an object: read from any text, with its steps by id."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from roster.cards.limits import DEFAULTS, Limits
from roster.cards.steps import Block, Step
from roster.cards.templates import TooLargeError, measure
from roster.errors import CardError, Fault
from roster.passport.words import Path, escape

API_VERSION = "ai-team.dev/v1"
KIND = "ProcessCard"
COMPLETE = "complete"
INPUT, RUN, TASK_ID = "input", "run", "task_id"
# Set before the first step, whatever the card says. `task_id` is what older cards call the id of their run.
GIVEN = (INPUT, RUN, TASK_ID)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessCard:
    """A card that has been read: its shape is right, and every jump leads to a step. Immutable.

    Made by `load`, `parse` and `from_dict`, all of which list every fault. `roster.cards.check` looks further: at ways that
    lead nowhere, loops, and variables.

    Attributes:
        name: `metadata.name`; where a card has none, its file's name without the ending.
        id: `metadata.id`, any text, or None.
        version: `metadata.version`, any text, or None.
        description: for people.
        author: for people.
        labels: for whoever sorts cards.
        variables: their values before the first step.
        steps: every step by its id, in the order of the card, those in branches and loops included.
        block: where the run begins.
        timeout: seconds that a run may take in all.
        limits: the bounds that it was read with, and must be run with.
        document: the document as it was read.
        places: line and column of each path of the document.
        warnings: what is allowed but probably not meant.

    Example:
        >>> card = ProcessCard.from_dict({"steps": [{"id": "a", "action": "write", "params": {"about": "${input.topic}"}}]})
        >>> step = card.steps[card.block.first]
        >>> step.action, step.next, step.params.fill(card.start({"topic": "bees"}), step=step.id, field="params")
        ('write', None, {'about': 'bees'})

    Source: docs/cards-spec.md.
    """

    name: str
    id: str | None
    version: str | None
    description: str
    author: str
    labels: Mapping[str, str]
    variables: Mapping[str, Any]
    steps: Mapping[str, Step]
    block: Block
    timeout: float
    limits: Limits
    document: Mapping[str, Any]
    places: Mapping[Path, tuple[int, int]]
    warnings: tuple[Fault, ...]

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, limits: Limits = DEFAULTS) -> ProcessCard:
        """Read a card from a file of YAML or JSON.

        Raises:
            DocumentError: the file cannot be read, or is no card; lists every fault with line and column.
        """
        from pathlib import Path as FilePath

        from roster.passport.files import read_file

        source = os.fspath(path)
        return cls.parse(read_file(FilePath(source), limits.file), source=source, limits=limits)

    @classmethod
    def parse(cls, text: str | bytes, *, source: str = "<text>", limits: Limits = DEFAULTS) -> ProcessCard:
        """Read a card from YAML or JSON text.

        Args:
            text: exactly one document.
            source: how errors name it.
            limits: its bounds.

        Raises:
            DocumentError: lists every fault with line and column.
        """
        from roster.cards.reading import parse

        return parse(text, source, limits)

    @classmethod
    def from_dict(
        cls, obj: Mapping[str, Any], *, source: str = "<dict>", limits: Limits = DEFAULTS
    ) -> ProcessCard:
        """Make a card from plain values, which are copied.

        Raises:
            DocumentError: lists every fault.
        """
        from roster.cards.reading import from_dict

        return from_dict(obj, source, limits)

    def written(self, path: Path) -> Any:
        """Return what stands in the document at a path; None where nothing does."""
        value: Any = self.document
        for step in path:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    @property
    def digest(self) -> str:
        """What a run is pinned to: equal for documents that say the same, whatever the order of their keys."""
        text = json.dumps(self.document, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()[:32]

    def start(self, inputs: Mapping[str, Any] | None = None, *, run_id: str = "") -> dict[str, Any]:
        """Return the variables of a run before its first step.

        They are the card's own, each replaced by the input of the same name where there is one; `input`, all inputs as a
        map; `run`, a map with `id` and `card`; and `task_id`, the id of the run, unless the card has such a variable.

        Raises:
            CardError: one of them is over the limit.
        """
        given = dict(inputs or {})
        scope = {TASK_ID: run_id} | {name: given.get(name, value) for name, value in self.variables.items()}
        scope |= {INPUT: given, RUN: {"id": run_id, "card": self.name}}
        for name, value in scope.items():
            self.check_variable(name, value, step=self.block.first)
        return scope

    def check_variable(self, name: str, value: Any, *, step: str) -> None:
        """Hold a variable's new value against the limit.

        Args:
            name: the variable.
            value: plain JSON.
            step: the id of the step that sets it.

        Raises:
            CardError: it is too large.
        """
        try:
            measure(value, self.limits.variable)
        except TooLargeError:
            reason = (
                f"the variable is larger than {self.limits.variable} bytes: hand large data over by reference"
            )
            raise CardError(reason, step=step, field=escape(name)) from None

    def __hash__(self) -> int:
        return hash(self.digest)
