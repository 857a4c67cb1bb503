"""`roster doctor`: looks for what is wrong with registry, bus, clocks, nodes and runs, and says what to do."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from roster.cli import logs
from roster.cli.output import Data
from roster.cli.session import Session

if TYPE_CHECKING:
    from roster.cli.doctor.finding import Finding

EXAMPLES = (
    "roster doctor",
    "roster doctor -o json | jq -r '.findings[] | select(.level == \"FAIL\") | .what'",
)
_STYLES = {"OK": "32", "WARN": "33", "FAIL": "31"}
_AREA_WIDTH = 11


def doctor(
    session: Session,
    output: Annotated[
        Data | None, typer.Option("-o", "--output", help="For programs.", show_default=False)
    ] = None,
) -> int:
    """Look for what is wrong, and say what to do.

    Store, bus (each live node is pinged), clocks, versions, environment, documents that cannot be read, contracts that
    contradict each other, founding-style nodes that do not keep themselves alive, dead letters, runs of process cards that
    do not get on. It writes nothing, and waits for nothing without a deadline. Exits with 1 if a finding is FAIL.
    """
    if not session.verbose:
        logs.errors_only()
    found = session.run(_examine(session))
    failed = any(finding.level == "FAIL" for finding in found)
    if output is not None:
        session.out.data({"ok": not failed, "findings": [finding.to_dict() for finding in found]}, output)
        return 1 if failed else 0
    for finding in found:
        text = f"  {finding.area:<{_AREA_WIDTH}}  {finding.what}"
        session.out.marked_line(f"{finding.level:<4}", _STYLES[finding.level], text)
        if finding.remedy:
            session.out.line(f"{'':<{4 + 2 + _AREA_WIDTH + 2}}-> {finding.remedy}")
    return 1 if failed else 0


async def _examine(session: Session) -> list[Finding]:
    from roster.cli.doctor import bus, environment, machine, nodes, runs, store

    progress = session.out.progress
    try:
        progress("looking at this machine")
        found = [machine.versions(), *machine.clocks(os.environ), machine.state_directory()]
        found += environment.contradictions(os.environ, session.registry_url, session.bus_url)
        progress("asking the store")
        said, listing = await store.examine(session.registry_url)
        found += said
        records = None
        if listing is not None:
            progress("reading what is registered")
            found += nodes.examine(listing)
            records = list(listing.catalog.index.by_key.values())
        progress("asking the nodes over the bus")
        found += await bus.examine(session.bus_url, records)
        progress("looking at runs of process cards")
        found += await runs.examine()
        return found
    finally:
        progress("")
