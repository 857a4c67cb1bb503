"""`roster get`: what is registered, and what runs, as kubectl would show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from roster.cli.complete import complete_cards, complete_objects
from roster.cli.listing import NodeTable, as_list, print_nodes, sort_records
from roster.cli.names import node_ref, scope, split_objects
from roster.cli.options import AllNamespaces, Namespace, SelectorText
from roster.cli.output import Listing
from roster.cli.runs_listing import get_runs, wanted_states
from roster.cli.session import Session
from roster.cli.table import Column

if TYPE_CHECKING:
    from roster.cli.offers import Offer
    from roster.registry import NodeRecord, Registry

EXAMPLES = (
    "roster get nodes                              in the namespace default",
    "roster get nodes -A -o wide                   in all of them, with more columns",
    "roster get node writer-001 -n ai-team -o yaml",
    "roster get nodes -l 'role=writer,tier in (a,b)' --sort-by load",
    "roster get nodes -A --watch                   and every change, until Ctrl-C",
    "roster get capabilities -A",
    "roster get nodes -o name | xargs roster drain",
    "roster get runs --state running,waiting       runs of process cards, the youngest first",
    "roster get run article-7 -o json",
)
_DEFAULT_LIMIT = 100


def get(
    session: Session,
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="KIND [NAME]",
            help="nodes, capabilities or runs (also: node, no, capability, cap, caps, run), or node/NAME, run/ID.",
            autocompletion=complete_objects,
        ),
    ],
    output: Annotated[Listing, typer.Option("-o", "--output", help="How to print it.")] = Listing.TABLE,
    selector: SelectorText = None,
    namespace: Namespace = None,
    all_namespaces: AllNamespaces = False,
    watch: Annotated[
        bool, typer.Option("-w", "--watch", help="Go on with every change, until Ctrl-C.", show_default=False)
    ] = False,
    sort_by: Annotated[
        str | None,
        typer.Option(
            "--sort-by",
            metavar="COLUMN|FIELD",
            help="Such as load, age, or .spec.version.",
            show_default=False,
        ),
    ] = None,
    no_headers: Annotated[
        bool, typer.Option("--no-headers", help="No headings.", show_default=False)
    ] = False,
    state: Annotated[
        str | None,
        typer.Option(
            "--state",
            metavar="STATE,...",
            help="Runs: only in these states, such as running,waiting.",
            show_default=False,
        ),
    ] = None,
    card: Annotated[
        str | None,
        typer.Option(
            "--card",
            metavar="NAME",
            help="Runs: only those of this card.",
            autocompletion=complete_cards,
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, max=10_000, help="Runs: at most so many.", show_default="100"),
    ] = None,
    before: Annotated[
        str | None,
        typer.Option(
            "--before",
            metavar="ID",
            help="Runs: only older ones than this, the last of the page before.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """List nodes, capabilities or runs of process cards.

    Everything that is registered is listed with its state, reachable or not: a dead node stays as offline for a while
    (an hour, unless it was registered with another ROSTER_RETENTION).
    """
    kind, names = split_objects(what)
    of_runs = {"--state": state, "--card": card, "--limit": limit, "--before": before}
    if kind == "runs":
        of_nodes = {"-l": selector, "-n": namespace, "-A": all_namespaces or None, "--sort-by": sort_by}
        _none_of(of_nodes, "runs")
        if names:
            _none_of(of_runs, "lists of runs")
        get_runs(
            session,
            names,
            output,
            states=wanted_states(state),
            card=card,
            limit=limit or _DEFAULT_LIMIT,
            before=before,
            watch=watch,
            header=not no_headers,
        )
        return
    _none_of(of_runs, kind)
    space = scope(namespace, all_namespaces)
    if kind == "capabilities":
        if watch or sort_by is not None:
            raise typer.BadParameter("--watch and --sort-by are for nodes")
        session.run(_capabilities(session, names, output, selector, space, header=not no_headers))
        return
    if watch and sort_by is not None:
        raise typer.BadParameter(
            "--sort-by cannot be kept while rows come in: leave out --watch or --sort-by"
        )
    if names and selector is not None:
        raise typer.BadParameter("-l and NAME contradict each other: give one of them")
    table = NodeTable(wide=output == Listing.WIDE, namespaced=space is None)
    session.run(
        _nodes(
            session,
            names,
            output,
            selector,
            space,
            table,
            watch=watch,
            sort_by=sort_by,
            header=not no_headers,
        )
    )


def _none_of(options: Mapping[str, object], kind: str) -> None:
    if given := [name for name, value in options.items() if value is not None]:
        raise typer.BadParameter(f"{', '.join(given)}: not for {kind}")


async def _nodes(
    session: Session,
    names: list[str],
    form: Listing,
    selector: str | None,
    namespace: str | None,
    table: NodeTable,
    *,
    watch: bool,
    sort_by: str | None,
    header: bool,
) -> None:
    out = session.out
    async with session.registry() as registry:
        if watch:
            await _watch(session, registry, names, form, selector, namespace, table, header=header)
            return
        if names:
            records = [record for name in names for record in await _named(registry, name, namespace)]
        else:
            records = await registry.find(selector=selector, namespace=namespace)
        if sort_by is not None:
            records = sort_records(records, sort_by)
        if not records and form in (Listing.TABLE, Listing.WIDE, Listing.NAME):
            out.note(await _none("nodes", registry, namespace, selector))
            return
        print_nodes(out, records, form, table, header=header, single=len(names) == 1 and len(records) == 1)


async def _named(registry: Registry, word: str, namespace: str | None) -> list[NodeRecord]:
    if namespace is None and "/" not in word:
        found = [record for record in await registry.find() if record.name == word]
        return found or [await registry.get(word)]  # which says that there is none
    ref = node_ref(word, None)
    return [await registry.get(ref.name, ref.namespace or namespace)]


async def _none(kind: str, registry: Registry, namespace: str | None, selector: str | None) -> str:
    """Say that there is nothing, and where there is something: a namespace is easily forgotten."""
    matching = f" match {selector!r}" if selector else ""
    if namespace is None:
        return f"no {kind}{matching or ' are registered'}"
    others = len(await registry.find(selector=selector))
    elsewhere = f" ({others} in others: use -A)" if others and kind == "nodes" else ""
    if others and kind != "nodes":
        elsewhere = " (there are some in others: use -A)"
    return f"no {kind} in namespace {namespace}{matching}{elsewhere}"


async def _watch(
    session: Session,
    registry: Registry,
    names: list[str],
    form: Listing,
    selector: str | None,
    namespace: str | None,
    table: NodeTable,
    *,
    header: bool,
) -> None:
    """Print what there is, then a row (or a document, one a line) for every change."""
    out = session.out
    wanted = {node_ref(name, None).name for name in names}
    now = [record for name in names for record in await _named(registry, name, namespace)]
    if not names:
        now = await registry.find(selector=selector, namespace=namespace)
    shown = {record.key: record for record in now}
    printed = None
    if form in (Listing.TABLE, Listing.WIDE):
        printed = print_nodes(out, now, form, table, header=header)
    else:
        for record in now:
            _one(session, record, form, record.state)
    async for event in registry.watch(selector=selector, namespace=namespace):
        record = event.record
        if wanted and event.name not in wanted:
            continue
        if event.type == "added" and shown.get(record.key) is record:
            continue  # a watch begins with what there is, which has been printed
        state = "removed" if event.type == "removed" else record.state
        if printed is not None:
            out.row(printed, table.row(record, state))
        else:
            _one(session, record, form, state)


def _one(session: Session, record: NodeRecord, form: Listing, state: str) -> None:
    if form == Listing.NAME:
        session.out.line(f"node/{record.name}")
        return
    found = record.document()
    found["status"] = {**found.get("status", {}), "state": state}
    if form == Listing.JSON:
        session.out.json(found, compact=True)
    else:
        session.out.line("---")
        session.out.yaml(found)


async def _capabilities(
    session: Session,
    names: list[str],
    form: Listing,
    selector: str | None,
    namespace: str | None,
    *,
    header: bool,
) -> None:
    from roster.cli.offers import mismatch_lines, need_offers, offers

    out = session.out
    async with session.registry() as registry:
        records = await registry.find(selector=selector, namespace=namespace)
        found = offers(records, await registry.mismatches())
        if names:
            found = need_offers(found, names)
        if form == Listing.NAME:
            out.lines(f"capability/{offer.name}" for offer in found)
        elif form in (Listing.JSON, Listing.YAML):
            items = [offer.to_dict() for offer in found]
            out.data(items[0] if len(names) == 1 else as_list(items), form)
        elif found:
            out.table(*_capability_table(found, wide=form == Listing.WIDE), header=header)
        else:
            out.note(await _none("capabilities", registry, namespace, selector))
        if form in (Listing.TABLE, Listing.WIDE):
            for line in mismatch_lines(found):
                out.warning(line)


def _capability_table(found: list[Offer], *, wide: bool) -> tuple[list[Column], list[list[str]]]:
    columns = [Column("NAME"), Column("VERSIONS"), Column("HEALTHY"), Column("DESCRIPTION", gives_way=True)]
    if wide:
        columns += [Column("CONTRACTS", gives_way=True), Column("NODES", gives_way=True)]
    rows = [
        [
            offer.name,
            ",".join(_versions(offer)),
            f"{offer.healthy}/{len(offer.nodes)}",
            offer.description,
            *([_contracts(offer), ",".join(record.key for record in offer.nodes)] if wide else []),
        ]
        for offer in found
    ]
    return columns, rows


def _versions(offer: Offer) -> list[str]:
    """Return its versions, with a mark on those that are declared with different schemas."""
    marked = {mismatch.version or "" for mismatch in offer.mismatches}
    found = [f"{version}!" if version in marked else version for version in offer.versions]
    return [*found, "!"] if "" in marked else found


def _contracts(offer: Offer) -> str:
    from roster.registry.contracts import short

    return ",".join(
        f"{version or '-'}={'|'.join(map(short, digests))}"
        for version, digests in sorted(offer.contracts.items())
    )
