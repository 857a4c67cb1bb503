"""`roster find`: who can do it now."""

from __future__ import annotations

from typing import Annotated

import typer

from roster.cli.complete import complete_capabilities
from roster.cli.listing import NodeTable, as_list, print_nodes
from roster.cli.options import AnyNamespace, SelectorText
from roster.cli.output import Listing
from roster.cli.session import Session

EXAMPLES = (
    "roster find write_article",
    "roster find write_article -l team=content --version '>=1.2,<2'",
    "roster find write_article --all -o wide          the unhealthy ones, too",
    "roster find write_article -o json | jq -r '.items[].spec.communication.mindbus_queue'",
)


def find(
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
            "--version",
            metavar="RANGE",
            help="Only where the capability's version (else the node's) is in this range, such as '>=1.2,<2'.",
            show_default=False,
        ),
    ] = None,
    namespace: AnyNamespace = None,
    everyone: Annotated[
        bool, typer.Option("--all", help="Also nodes that are not ready or busy.", show_default=False)
    ] = False,
    output: Annotated[Listing, typer.Option("-o", "--output", help="How to print it.")] = Listing.TABLE,
    no_headers: Annotated[
        bool, typer.Option("--no-headers", help="No headings.", show_default=False)
    ] = False,
) -> None:
    """List the nodes that can do something now.

    They are ready or busy, in any namespace. Exits with 7 if there is none.
    """
    session.run(
        _find(session, capability, selector, version, namespace, everyone, output, header=not no_headers)
    )


async def _find(
    session: Session,
    capability: str,
    selector: str | None,
    version: str | None,
    namespace: str | None,
    everyone: bool,
    form: Listing,
    *,
    header: bool,
) -> None:
    from roster.errors import NoCapableNodesError, PassedOver

    async with session.registry() as registry:
        able = await registry.find_by_capability(
            capability, selector=selector, version=version, namespace=namespace, healthy=None
        )
        found = able if everyone else [record for record in able if record.healthy]
        if found:
            table = NodeTable(wide=form == Listing.WIDE, namespaced=True, capability=capability)
            print_nodes(session.out, found, form, table, header=header)
            return
        if form in (Listing.JSON, Listing.YAML):
            session.out.data(as_list([]), form)
        narrowed = any(word is not None for word in (selector, version, namespace))
        raise NoCapableNodesError(
            f"no healthy node offers the capability {capability!r}{' under these conditions' if narrowed else ''}; "
            "see what is on offer with 'roster get capabilities -A'",
            capability=capability,
            passed_over=[PassedOver(record.key, record.state, record.state) for record in able],
        )
