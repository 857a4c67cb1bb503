"""`roster explain`: every node that has a capability, and the one reason why it would be chosen or not."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roster.cli.complete import complete_capabilities
from roster.cli.listing import paint_state
from roster.cli.options import AnyNamespace, SelectorText
from roster.cli.session import Session
from roster.cli.table import Column
from roster.errors import AllNodesBusyError, NoCapableNodesError

if TYPE_CHECKING:
    from roster.errors import PassedOver
    from roster.orchestrator import Orchestrator

EXAMPLES = (
    "roster explain write_article",
    "roster explain write_article -l team=content --version '>=1.2,<2'",
    "roster explain write_article -o json | jq -r '.nodes[] | select(.chosen) | .node'",
)


class Form(StrEnum):
    """How the reasons are printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def explain(
    session: Session,
    capability: Annotated[
        str,
        typer.Argument(
            metavar="CAPABILITY", help="What is to be done.", autocompletion=complete_capabilities
        ),
    ],
    selector: SelectorText = None,
    version: Annotated[
        str | None,
        typer.Option(
            "--version", metavar="RANGE", help="Of the capability, such as '>=1.2,<2'.", show_default=False
        ),
    ] = None,
    namespace: AnyNamespace = None,
    output: Annotated[Form, typer.Option("-o", "--output", help="How to print it.")] = Form.TABLE,
    no_headers: Annotated[
        bool, typer.Option("--no-headers", help="No headings.", show_default=False)
    ] = False,
) -> int:
    """Say of each capable node why a call goes there or not.

    Each has exactly one reason, in the words of the errors that a call ends with. The sign * marks the nodes that a call of
    the strategy least_loaded would choose among. Exits with 0 if there is one, 7 if nobody can do it, 8 if all are busy.

    What another caller has learnt by its own calls (a node that is suspect or ejected there) is not seen from here.
    """
    asked = {"selector": selector, "version": version, "namespace": namespace}
    return session.run(_explain(session, capability, asked, output, header=not no_headers))


async def _explain(
    session: Session, capability: str, asked: dict[str, Any], form: Form, *, header: bool
) -> int:
    async with session.orchestrator() as orchestrator:
        rows = await orchestrator.explain(capability, **asked)
        refusal: NoCapableNodesError | AllNodesBusyError | None = None
        try:
            await orchestrator.pick(capability, **asked)
        except (NoCapableNodesError, AllNodesBusyError) as error:
            refusal = error
        least = min((row.load or 0.0 for row in rows if row.candidate), default=None)
        items = [_item(orchestrator, capability, row, least) for row in rows]
        if form != Form.TABLE:
            verdict = "chosen" if refusal is None else refusal.summary
            session.out.data({"capability": capability, "verdict": verdict, "nodes": items}, form)
        elif items:
            session.out.table(*_table(items), header=header)
        if refusal is None:
            return 0
        session.out.error(refusal.summary)  # its table has been printed
        return refusal.exit_code


def _item(
    orchestrator: Orchestrator, capability: str, row: PassedOver, least: float | None
) -> dict[str, Any]:
    record = orchestrator.node(row.node)
    return {
        "node": row.node,
        "chosen": row.candidate and (row.load or 0.0) == least,
        "candidate": row.candidate,
        "state": row.state,
        "active_tasks": record.active_tasks if record is not None else None,
        "capacity": record.capacity if record is not None else None,
        "version": record.capabilities.get(capability) if record is not None else None,
        "reason": row.reason,
    }


def _table(items: list[dict[str, Any]]) -> tuple[list[Column], list[list[str]]]:
    columns = [
        Column("CHOSEN"),
        Column("NODE"),
        Column("STATE", paint=paint_state),
        Column("LOAD"),
        Column("OFFERS"),
        Column("REASON"),
    ]
    rows = [
        [
            "*" if item["chosen"] else "-",
            item["node"],
            item["state"],
            "" if item["capacity"] is None else f"{item['active_tasks']}/{item['capacity']}",
            item["version"] or "",
            item["reason"],
        ]
        for item in items
    ]
    return columns, rows
