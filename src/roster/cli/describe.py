"""`roster describe`: one node, one capability or one run, in full and for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roster._durations import show_duration
from roster.cli.complete import complete_objects
from roster.cli.encode import to_json
from roster.cli.listing import last_seen
from roster.cli.names import node_ref, scope, split_objects
from roster.cli.offers import Offer, need_offers, offers
from roster.cli.options import Namespace
from roster.cli.runs_listing import describe_runs
from roster.cli.schemas import schema_lines
from roster.cli.session import Session
from roster.errors import DocumentError

if TYPE_CHECKING:
    from roster.passport import Capability
    from roster.registry import NodeRecord

EXAMPLES = (
    "roster describe node writer-001 -n ai-team",
    "roster describe node/writer-001 node/writer-002",
    "roster describe capability write_article     what it takes and gives, and who offers it",
    "roster describe run article-7                 how it got on, step by step",
)
_INDENT = 15


def describe(
    session: Session,
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="KIND NAME",
            help="A node, a capability or a run, also node/NAME, run/ID.",
            autocompletion=complete_objects,
        ),
    ],
    namespace: Namespace = None,
) -> None:
    """Show everything about a node, a capability or a run.

    This is for people to read; programs take 'roster get node NAME -o json'.
    """
    kind, names = split_objects(what)
    if not names:
        raise typer.BadParameter("name what to describe: describe node NAME")
    if kind == "runs":
        describe_runs(session, names)
        return
    session.run(
        _nodes(session, names, namespace) if kind == "nodes" else _capabilities(session, names, namespace)
    )


async def _nodes(session: Session, names: list[str], namespace: str | None) -> None:
    async with session.registry() as registry:
        for number, word in enumerate(names):
            ref = node_ref(word, namespace)
            record = await registry.get(ref.name, ref.namespace or scope(None, False))
            session.out.lines([*([""] if number else []), *_node_lines(record)])


async def _capabilities(session: Session, names: list[str], namespace: str | None) -> None:
    async with session.registry() as registry:
        records = await registry.find(namespace=namespace)
        found = need_offers(offers(records, await registry.mismatches()), names)
        for number, offer in enumerate(found):
            session.out.lines([*([""] if number else []), *_offer_lines(offer)])


def _node_lines(record: NodeRecord) -> Iterator[str]:
    passport, status = record.passport, record.status
    yield from _field("Name", [record.name])
    yield from _field("Namespace", [record.namespace])
    yield from _field("UID", [record.uid or "<none> (registered by no Roster of ours)"])
    yield from _field("Generation", [str(record.generation)])
    yield from _field("Type", [record.type or "agent"])
    yield from _field("Version", [record.version or "<none>"])
    yield from _field("Labels", [f"{key}={value}" for key, value in record.labels.items()])
    annotations = passport.annotations.items()
    yield from _field(
        "Annotations", [f"{key}: {line}" for key, value in annotations for line in value.split("\n")]
    )
    yield from _field("State", [record.state + (" (marked by 'roster drain')" if record.cordoned else "")])
    yield from _field("Load", [f"{record.active_tasks} of {record.capacity} tasks"])
    yield from _field("Queue", [record.mindbus_queue])
    yield from _field("Routing key", [passport.mindbus_routing_key or "<none>"])
    yield from _field(
        "Registered", [f"{record.registered_at or '<unknown>'} ({show_duration(record.age)} ago)"]
    )
    yield from _field("Last seen", [f"{record.last_seen or '<unknown>'} ({last_seen(record)} ago)"])
    if status is not None:
        holder = f", held by {status.holder}" if status.holder is not None else ""
        mirrored = f", mirrored from {status.mirrored_from}" if status.mirrored_from else ""
        yield from _field("Lease", [f"{status.ttl:g} s{holder}{mirrored}"])
    if passport.resources:
        yield "Resources:"
        yield from (f"  {key}: {_value(value)}" for key, value in passport.resources.items())
    yield from _conditions(record)
    yield "Capabilities:" if passport.capabilities else "Capabilities:  <none>"
    for capability in passport.capabilities:
        withdrawn = "" if capability.name in record.capabilities else " (withdrawn at present)"
        yield from _capability_lines(capability, withdrawn)


def _field(title: str, lines: Iterable[str]) -> Iterator[str]:
    heading = f"{title}:".ljust(_INDENT)
    for line in list(lines) or ["<none>"]:
        yield heading + line
        heading = " " * _INDENT


def _conditions(record: NodeRecord) -> Iterator[str]:
    conditions = record.conditions
    if not conditions:
        return
    yield "Conditions:"
    for condition in conditions:
        why = ": ".join(text for text in (condition.reason, condition.message) if text)
        since = f" since {condition.since}" if condition.since else ""
        yield f"  {condition.type}={condition.status}{since}{f' ({why})' if why else ''}"


def _capability_lines(capability: Capability, note: str = "") -> Iterator[str]:
    yield f"  {capability.name}{f' {capability.version}' if capability.version else ''}{note}"
    yield from (f"    {line}" for line in capability.description.split("\n") if line)
    facts = {
        "tags": ", ".join(capability.tags),
        "idempotent": "" if capability.idempotent is None else str(capability.idempotent).lower(),
        "timeout": "" if capability.timeout is None else f"{capability.timeout:g} s",
    }
    yield from (f"    {name}: {value}" for name, value in facts.items() if value)
    yield from _schema_block(capability)


def _schema_block(capability: Capability) -> Iterator[str]:
    try:
        schemas = {"input": capability.input_json_schema, "output": capability.output_json_schema}
    except DocumentError as error:
        yield from (f"    schema: {line}" for line in error.lines())
        return
    for title, schema in schemas.items():
        if schema is None:
            yield f"    {title}: anything"
            continue
        yield f"    {title}:"
        yield from (f"      {line}" for line in schema_lines(schema))


def _value(value: Any) -> str:
    return to_json(value, indent=None) if isinstance(value, Mapping | list | tuple) else str(value)


def _offer_lines(offer: Offer) -> Iterator[str]:
    yield from _field("Name", [offer.name])
    yield from _field("Versions", [", ".join(offer.versions) or "<none>"])
    yield from _field("Nodes", [f"{record.key} ({record.state})" for record in offer.nodes])
    for mismatch in offer.mismatches:
        title = f"{mismatch.version or '(no version)'}: {mismatch.said()}"
        yield from _field("Mismatch", [title])
    declared = offer.declared
    if declared is None:
        return
    yield f"Contract:      as {offer.nodes[0].key} declares it" if offer.mismatches else "Contract:"
    yield from _capability_lines(declared)
