"""Cards as they are given: a file, a document or a card, read and checked together with the cards that they run."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from roster.cards import CardReport, Limits, ProcessCard, SubprocessStep, check, examine
from roster.cards.limits import DEFAULTS
from roster.cards.limits import VARIABLE as LIMITS
from roster.cards.subcards import check_cards
from roster.errors import ConfigError, DocumentError
from roster.passport.files import read_file
from roster.routing import STRATEGIES

CardLike: TypeAlias = ProcessCard | Mapping[str, Any] | str | os.PathLike[str]

_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?\Z")


def read_card(card: CardLike, limits: Limits | None = None) -> tuple[ProcessCard, dict[str, ProcessCard]]:
    """Read a card and those that it runs, and check them all; an inner one stands under `{digest of the outer}|{name}`.

    Raises:
        DocumentError: one of them is wrong: every fault with its line.
        ConfigError: a card that runs others is no file.
    """
    bounds = limits or DEFAULTS.changed(os.environ.get(LIMITS, ""))
    inner: dict[str, ProcessCard] = {}
    if isinstance(card, ProcessCard):
        check(card, strategies=tuple(STRATEGIES), source=card.name)
        read, source = card, ""
    elif isinstance(card, Mapping):
        read, source = ProcessCard.from_dict(card, limits=bounds), ""
        check(read, strategies=tuple(STRATEGIES), source="<dict>")
    else:
        source = os.path.normpath(os.fspath(card))
        report = examine_file(source, bounds)
        if report.card is None:
            raise DocumentError(source, report.faults)
        read = report.card
    cards_at = {source: read}

    def find(name: str, origin: str) -> tuple[str, ProcessCard]:
        path = os.path.normpath(Path(origin).parent / name)
        report = examine_file(path, bounds)
        if report.card is None:
            raise DocumentError(path, report.faults)
        cards_at[path] = report.card
        inner[f"{cards_at[origin].digest}|{name}"] = report.card
        return path, report.card

    if not source and any(isinstance(step, SubprocessStep) for step in read.steps.values()):
        raise ConfigError("a card that runs other cards is given as a file: theirs are looked for beside it")
    faults = check_cards(read, source, find)
    if faults:
        raise DocumentError(source, faults)
    return read, inner


def examine_file(path: str, limits: Limits) -> CardReport:
    """Read a file as a card, and look at everything that can be wrong with it.

    Raises:
        DocumentError: it cannot be read.
    """
    return examine(
        read_file(Path(path), limits.file), source=path, limits=limits, strategies=tuple(STRATEGIES)
    )


def run_name(run_id: str | None, card: ProcessCard) -> str:
    """Return the id of a run: the one that is given, or one made up from the card's name.

    Raises:
        ConfigError: it is none.
    """
    if run_id is None:
        word = re.sub(r"[^a-z0-9]+", "-", card.name.lower()).strip("-")[:40].strip("-") or "run"
        return f"{word}-{uuid.uuid4().hex[:12]}"
    if not _ID.match(run_id):
        raise ConfigError(
            "the id of a run is 1 to 100 letters, digits, '.', '_' and '-', and begins and ends with a letter or digit"
        )
    return run_id


def plain_inputs(inputs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a copy of the inputs that is JSON, and nothing else.

    Raises:
        ConfigError: they are not.
    """
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(inputs or {}), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"the inputs of a run are JSON: {error}") from None
    return plain
