"""`roster delete` and `roster prune`: take nodes out of the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from roster.cli.complete import complete_objects
from roster.cli.consent import consent
from roster.cli.names import node_ref, scope, split_objects
from roster.cli.options import Namespace, seconds
from roster.cli.session import Session
from roster.errors import RegistryError

if TYPE_CHECKING:
    from roster.registry import NodeRecord

DELETE_EXAMPLES = (
    "roster delete node writer-001 -n ai-team",
    "roster delete node writer-001 --yes        also if it is alive, without asking",
)
PRUNE_EXAMPLES = (
    "roster prune",
    "roster prune --older-than 1h --dry-run     what would go",
)


def delete(
    session: Session,
    what: Annotated[
        list[str],
        typer.Argument(metavar="KIND NAME", help="node NAME, or node/NAME.", autocompletion=complete_objects),
    ],
    namespace: Namespace = None,
    yes: Annotated[
        bool,
        typer.Option(
            "-y", "--yes", "--force", help="Do not ask, also if a node is alive.", show_default=False
        ),
    ] = False,
) -> None:
    """Remove nodes from the registry.

    A node that is alive drops its work and registers again: stop its process instead. So that is asked first, and without
    a terminal to ask on it takes --yes.
    """
    kind, names = split_objects(what)
    if kind == "runs":
        raise typer.BadParameter(
            "a run is ended with 'roster run cancel ID', and runs that have ended are removed with 'roster run prune'"
        )
    if kind != "nodes":
        raise typer.BadParameter("a capability goes with the nodes that offer it: delete node NAME")
    if not names:
        raise typer.BadParameter("name what to delete: delete node NAME")
    found = session.run(_look_up(session, names, namespace))
    # Asked between two runs of the loop: inside one, Ctrl-C would only cancel a task that cannot notice while it reads.
    alive = [record for record in found if record.state != "offline"]
    for record in () if yes else alive:
        _confirm(record)
    session.run(_delete(session, found, {record.key for record in alive}))


async def _look_up(session: Session, names: list[str], namespace: str | None) -> list[NodeRecord]:
    async with session.registry() as registry:
        refs = [node_ref(word, namespace) for word in names]
        return [await registry.get(ref.name, ref.namespace or scope(None, False)) for ref in refs]


async def _delete(session: Session, found: list[NodeRecord], force: set[str]) -> None:
    async with session.registry() as registry:
        for record in found:
            await registry.delete(record.name, record.namespace, force=record.key in force)
            session.out.line(f"node/{record.name} deleted")


def _confirm(record: NodeRecord) -> None:
    consent(
        f"{record.key} is {record.state}: it will drop its work and register again. Delete it all the same?",
        RegistryError(
            f"{record.key} is {record.state}: stop its process (it then leaves by itself), or add --yes: it then drops its "
            "work and registers again"
        ),
    )


def prune(
    session: Session,
    older_than: Annotated[
        str | None,
        typer.Option(
            "--older-than", metavar="DURATION", help="Only nodes not seen for so long.", show_default=False
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would go.", show_default=False)
    ] = False,
) -> None:
    """Remove the nodes that are offline, in all namespaces.

    Most go by themselves when their retention is over; this is for stores that cannot do that, and for documents that
    were put without a lease.
    """
    session.run(_prune(session, seconds(older_than, "--older-than"), dry_run))


async def _prune(session: Session, older_than: float | None, dry_run: bool) -> None:
    async with session.registry() as registry:
        gone = await registry.prune(older_than, dry_run=dry_run)
    if not gone:
        session.out.note("nothing to prune")
    session.out.lines(f"node {key} {'would be pruned' if dry_run else 'pruned'}" for key in gone)
