"""`roster card validate` and `roster card graph`: process cards on paper, and against who is there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roster.cli.inputs import STDIN, files_in, from_stdin
from roster.cli.options import AnyNamespace
from roster.cli.output import Data
from roster.cli.session import Session

if TYPE_CHECKING:
    from roster.cards import ActionStep, CardReport, Limits, ProcessCard
    from roster.passport import Capability
    from roster.registry import NodeRecord

VALIDATE_EXAMPLES = (
    "roster card validate card.yaml",
    "roster card validate cards/                       every *.yaml, *.yml and *.json in it",
    "roster card validate --against-registry card.yaml   is there somebody for each step?",
    "roster card validate --limit steps=500,total_time=30d card.yaml",
)
GRAPH_EXAMPLES = (
    "roster card graph card.yaml",
    "roster card graph card.yaml -o svg > card.svg",
)
EXAMPLES = (VALIDATE_EXAMPLES[0], GRAPH_EXAMPLES[0], "roster card test article_test.yaml")
_STDIN_NAME = "<stdin>"

LimitTexts = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="NAME=VALUE",
        help="Another limit, such as steps=500; may be repeated. Without it ROSTER_CARD_LIMITS.",
        show_default=False,
    ),
]


class Drawing(StrEnum):
    """How a card is drawn."""

    MERMAID = "mermaid"
    SVG = "svg"


def root(session: Session) -> None:
    """Process cards: check them, draw them, test them."""


def validate(
    session: Session,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Files, directories, or - for standard input.")
    ],
    against_registry: Annotated[
        bool,
        typer.Option(
            "--against-registry",
            help="Also ask the registry who offers each step's capability, and under which contract.",
            show_default=False,
        ),
    ] = False,
    namespace: AnyNamespace = None,
    limit: LimitTexts = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail on warnings, such as unknown fields.", show_default=False)
    ] = False,
    output: Annotated[
        Data | None, typer.Option("-o", "--output", help="For programs.", show_default=False)
    ] = None,
) -> int:
    """Check process cards, and list every fault.

    Each fault is a line with file, line, column and path. Exits with 1 if there is a fault. Warnings go to standard error.
    Cards that a card runs (subprocess) are looked for beside it, and checked too.
    """
    limits = _limits(limit)
    sources = [
        source for path in files for source in ([STDIN] if str(path) == STDIN else map(str, files_in(path)))
    ]
    reports = [_examine(source, limits) for source in sources]
    if against_registry:
        records = session.run(_records(session, namespace))
        reports = [_against(report, records) for report in reports]
    bad = [report for report in reports if report.faults or (strict and report.warnings)]
    if output is not None:
        session.out.data({"ok": not bad, "files": [_as_data(report) for report in reports]}, output)
        return 1 if bad else 0
    for report in reports:
        session.out.lines(report.lines())
        for line in report.warning_lines():
            session.out.warning(line)
        if report not in bad and report.card is not None:
            steps = len(report.card.steps)
            session.out.line(
                f"{report.source}: ok ({report.card.name}, {steps} step{'s' if steps != 1 else ''})"
            )
    return 1 if bad else 0


def graph(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="CARD", help="A file, or - for standard input.")],
    limit: LimitTexts = None,
    output: Annotated[Drawing, typer.Option("-o", "--output", help="How to draw it.")] = Drawing.MERMAID,
) -> None:
    """Draw a process card.

    As Mermaid text, which GitHub and many editors show as a picture, or as an SVG picture. A card is drawn if its steps can
    be read, also where 'roster card validate' finds fault with the ways through it.
    """
    from roster.cards import ProcessCard

    limits = _limits(limit)
    name, raw = _read(str(file), limits)
    card = ProcessCard.parse(raw, source=name, limits=limits)
    if output is Drawing.SVG:
        from roster.cards.svg import to_svg

        session.out.text(to_svg(card))
    else:
        from roster.cards.mermaid import to_mermaid

        session.out.text(to_mermaid(card))


def _limits(texts: Sequence[str] | None) -> Limits:
    from roster.cards.limits import DEFAULTS, VARIABLE

    limits = DEFAULTS.changed(os.environ.get(VARIABLE, ""))
    for text in texts or ():
        limits = limits.changed(text)
    return limits


def _read(source: str, limits: Limits) -> tuple[str, bytes]:
    """Return how a source is called, and its bytes.

    Raises:
        DocumentError: it cannot be read, or is too large.
    """
    from roster.passport.files import read_file

    if source == STDIN:
        return _STDIN_NAME, from_stdin(limits.file)
    return source, read_file(Path(source), limits.file)


def _examine(source: str, limits: Limits) -> CardReport:
    from roster.cards import CardReport, examine
    from roster.cards.subcards import check_cards
    from roster.errors import DocumentError
    from roster.routing import STRATEGIES

    shown = _STDIN_NAME if source == STDIN else source
    try:
        _, raw = _read(source, limits)
    except DocumentError as error:
        return CardReport(shown, faults=error.faults)
    report = examine(raw, source=shown, limits=limits, strategies=tuple(STRATEGIES))
    if report.card is None:
        return report

    def find(name: str, origin: str) -> tuple[str, ProcessCard]:
        folder = Path() if origin == _STDIN_NAME else Path(origin).parent
        path = os.path.normpath(folder / name)
        found = examine(_read(path, limits)[1], source=path, limits=limits, strategies=tuple(STRATEGIES))
        if found.card is None:
            raise DocumentError(path, found.faults)
        return path, found.card

    origin = shown if source == STDIN else os.path.normpath(source)
    return _with(report, check_cards(report.card, origin, find))


def _with(report: CardReport, faults: Sequence[object]) -> CardReport:
    """Return a report with further faults, in the order of the text."""
    from roster.errors import Fault

    more = [fault for fault in faults if isinstance(fault, Fault)]
    if not more:
        return report
    every = sorted((*report.faults, *more), key=lambda fault: (fault.line or 0, fault.column or 0))
    return replace(report, card=None, faults=tuple(every))


async def _records(session: Session, namespace: str | None) -> list[NodeRecord]:
    async with session.registry() as registry:
        return [record for record in await registry.find(namespace=namespace) if record.state != "offline"]


def _against(report: CardReport, records: Sequence[NodeRecord]) -> CardReport:
    from roster.cards.offers import check_offers

    if report.card is None:
        return report

    def offers(step: ActionStep) -> list[Capability]:
        able = [record for record in records if step.action in record.capabilities]
        if step.selector is not None:
            able = [record for record in able if record.matches(step.selector)]
        declared = (record.passport.capability(step.action) for record in able)
        return [capability for capability in declared if capability is not None]

    known = sorted({name for record in records for name in record.capabilities})
    return _with(report, check_offers(report.card, offers, known))


def _as_data(report: CardReport) -> dict[str, object]:
    return {
        "file": report.source,
        "ok": report.ok,
        "card": report.card.name if report.card is not None else None,
        "steps": len(report.card.steps) if report.card is not None else None,
        "faults": [asdict(fault) for fault in report.faults],
        "warnings": [asdict(fault) for fault in report.warnings],
    }
