"""Nodes as rows, documents and names: what `get`, `find` and their watching share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from roster._durations import show_duration
from roster.cli.output import Listing, Output
from roster.cli.table import Column, Table

if TYPE_CHECKING:
    from roster.registry import NodeRecord

_COLOURS = {
    "ready": "32",
    "busy": "33",
    "draining": "36",
    "starting": "34",
    "unknown": "35",
    "offline": "31",
    "removed": "31",
}
_PATH = re.compile(r"\{?\.?([\w-]+(?:\.[\w/-]+)*)\}?\Z")


def paint_state(state: str) -> str:
    """Return the ANSI style of a state."""
    return _COLOURS.get(state, "")


class NodeTable:
    """Which columns are shown, and the cells of a node.

    Args:
        wide: show more.
        namespaced: begin with the namespace.
        capability: show the version of this capability.
    """

    def __init__(self, *, wide: bool, namespaced: bool, capability: str | None = None) -> None:
        self._wide = wide
        self._namespaced = namespaced
        self._capability = capability
        self.columns = [
            *([Column("NAMESPACE")] if namespaced else []),
            Column("NAME"),
            Column("STATE", paint=paint_state),
            Column("LOAD"),
            *([Column("OFFERS")] if capability is not None else []),
            Column("CAPABILITIES", gives_way=True),
            Column("AGE"),
            Column("LAST SEEN"),
            *(
                [
                    Column("VERSION"),
                    Column("QUEUE"),
                    Column("LABELS", gives_way=True),
                    Column("UID"),
                    Column("CONDITIONS", gives_way=True),
                ]
                if wide
                else []
            ),
        ]

    def row(self, record: NodeRecord, state: str | None = None) -> list[str]:
        """Return the cells of a node; `state` stands in for its own."""
        return [
            *([record.namespace] if self._namespaced else []),
            record.name,
            state or record.state,
            f"{record.active_tasks}/{record.capacity}",
            *([record.capabilities.get(self._capability) or ""] if self._capability is not None else []),
            ",".join(record.capabilities),
            show_duration(record.age),
            last_seen(record),
            *(
                [
                    record.version or "",
                    record.mindbus_queue,
                    show_labels(record.labels),
                    record.uid,
                    ",".join(f"{one.type}={one.status}" for one in record.conditions),
                ]
                if self._wide
                else []
            ),
        ]


def show_labels(labels: Mapping[str, str]) -> str:
    """Return labels as selectors spell them."""
    return ",".join(f"{key}={value}" for key, value in labels.items())


def last_seen(record: NodeRecord) -> str:
    """Return how long ago a node was last known to live."""
    from roster._clock import seconds_since

    return show_duration(seconds_since(record.last_seen))


def as_list(items: Iterable[Any]) -> dict[str, Any]:
    """Return items as the list that kubectl prints."""
    return {"apiVersion": "v1", "kind": "List", "items": list(items)}


def print_nodes(
    out: Output,
    records: Sequence[NodeRecord],
    form: Listing,
    table: NodeTable,
    *,
    header: bool = True,
    single: bool = False,
) -> Table | None:
    """Print nodes in the form that was asked for; `single` prints the object itself instead of a list of one."""
    if form == Listing.NAME:
        out.lines(f"node/{record.name}" for record in records)
    elif form in (Listing.JSON, Listing.YAML):
        documents = [record.document() for record in records]
        out.data(documents[0] if single else as_list(documents), form)
    else:
        return out.table(table.columns, [table.row(record) for record in records], header=header)
    return None


def sort_records(records: Sequence[NodeRecord], by: str) -> list[NodeRecord]:
    """Sort by a column (`load`, `age`, `state`) or a field of the document (`.spec.version`); nodes without it come last.

    Raises:
        typer.BadParameter: there is no such column, and it is no path.
    """
    keys = {
        "name": lambda record: record.name,
        "namespace": lambda record: record.namespace,
        "state": lambda record: record.state,
        "load": lambda record: record.active_tasks / max(record.capacity, 1),
        "age": lambda record: record.age,
        "version": lambda record: record.version,
        "queue": lambda record: record.mindbus_queue,
        "uid": lambda record: record.uid,
        "type": lambda record: record.type,
    }
    key = keys.get(by.lower())
    if key is not None:
        return sorted(records, key=lambda record: _rank(key(record)))
    path = _PATH.match(by)
    if path is None or "." not in by:
        raise typer.BadParameter(
            f"--sort-by {by!r}: name one of {', '.join(keys)}, or a field such as .spec.version"
        )
    steps = path[1].split(".")
    return sorted(records, key=lambda record: _rank(_field(record.document(), steps)))


def _field(value: Any, steps: Sequence[str]) -> Any:
    for step in steps:
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _rank(value: Any) -> tuple[int, Any]:
    """Order values of any kind: numbers, then texts, then the rest, then nothing."""
    if value is None:
        return 3, ""
    if isinstance(value, int | float):
        return 0, value
    return (1, value) if isinstance(value, str) else (2, str(value))
