"""`roster card test`: runs the test files of cards, without agents, and says where a card does not do what it should."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roster.cli.inputs import files_in
from roster.cli.output import Data
from roster.cli.session import Session
from roster.errors import DocumentError

if TYPE_CHECKING:
    from roster.orchestrator.runs.cardtest import CardTest, CaseResult

EXAMPLES = (
    "roster card test article_test.yaml",
    "roster card test tests/cards/                      every *.yaml, *.yml and *.json in it",
    "roster card test article_test.yaml -k rejected     only cases with this in their name",
    "roster card test article_test.yaml -v              every step of every case",
)


def cases(
    session: Session,
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Test files, or directories of them.")],
    keyword: Annotated[
        str | None,
        typer.Option("-k", metavar="TEXT", help="Only cases whose name contains it.", show_default=False),
    ] = None,
    output: Annotated[
        Data | None, typer.Option("-o", "--output", help="For programs.", show_default=False)
    ] = None,
) -> int:
    """Run the test files of process cards.

    Each names a card, and cases with inputs, the answers of the actions, and what is expected. No node, registry or bus is
    asked, and no time is waited for. A case is a line; exits with 1 if one is not as expected.
    """
    from roster.orchestrator.runs.cardtest import CardTest

    tests: list[CardTest] = []
    wrong: list[DocumentError] = []
    for path in [str(file) for given in files for file in files_in(given)]:
        try:
            tests.append(CardTest.load(path))
        except DocumentError as fault:  # those that can be read are run all the same
            wrong.append(fault)
    results = [(one, result) for one in tests for result in session.run(_run(session, one, keyword, output))]
    failed = sum(not result.ok for _, result in results)
    if output is not None:
        session.out.data(
            {
                "ok": not (failed or wrong),
                "cases": [_as_data(one, result) for one, result in results],
                "faults": [line for error in wrong for line in error.lines()],
            },
            output,
        )
    for error in wrong:
        for line in error.lines():
            session.out.note(line)
    if not results and not wrong:
        session.out.error(f"no case has {keyword!r} in its name")
        return 1
    if failed or wrong:
        bad = f"{len(wrong)} file{'s' if len(wrong) != 1 else ''} cannot be run" if wrong else ""
        said = f"{failed} of {len(results)} cases failed" if results else ""
        session.out.error("; ".join(text for text in (said, bad) if text))
        return 1
    if output is None:
        session.out.line(f"{len(results)} case{'s' if len(results) != 1 else ''} ok")
    return 0


async def _run(session: Session, test: CardTest, keyword: str | None, form: Data | None) -> list[CaseResult]:
    from roster.orchestrator.runs.cardtest import run_case

    results = []
    for case in test.cases:
        if keyword is not None and keyword.lower() not in case.name.lower():
            continue
        result = await run_case(test, case)
        results.append(result)
        if form is None:
            _tell(session, test, result)
    return results


def _tell(session: Session, test: CardTest, result: CaseResult) -> None:
    out = session.out
    mark, style = ("ok  ", "32") if result.ok else ("FAIL", "31")
    out.marked_line(mark, style, f"  {test.source}: {result.case.name}")
    for difference in result.differences:
        where = f"{test.source}:{difference.line}" if difference.line is not None else test.source
        out.line(f"        {where}: {difference.what}: {difference.message}")
    if session.verbose and result.record is not None:
        for step in result.record.steps:
            error = f": {step.error.get('message')}" if step.error else ""
            out.line(f"        {step.key} {step.state}{error}")


def _as_data(test: CardTest, result: CaseResult) -> dict[str, Any]:
    return {
        "file": test.source,
        "name": result.case.name,
        "line": result.case.line,
        "ok": result.ok,
        "differences": [difference.to_dict() for difference in result.differences],
        "calls": [{"action": call.action, "params": call.params, "step": call.step} for call in result.calls],
        "run": None if result.record is None else result.record.to_dict(),
    }
