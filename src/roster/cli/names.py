"""How nodes, capabilities and namespaces are named on the command line, as in kubectl."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal, NamedTuple

import typer

Kind = Literal["nodes", "capabilities", "runs"]

_NODES = frozenset({"node", "nodes", "no"})
_CAPABILITIES = frozenset({"capability", "capabilities", "cap", "caps"})
_RUNS = frozenset({"run", "runs"})


class Ref(NamedTuple):
    """A node as it was named."""

    namespace: str | None
    name: str


def split_objects(words: Sequence[str]) -> tuple[Kind, list[str]]:
    """Read `nodes a b`, `node/a node/b`, `capabilities x` or `run ID`.

    Raises:
        typer.BadParameter: the kind is unknown.
    """
    first, slash, rest = words[0].partition("/")
    kind = _kind(first)
    if kind is None:
        raise typer.BadParameter(f"there is no kind {first!r}: name nodes, capabilities or runs")
    names = [rest] if slash else []
    for word in words[1:]:
        prefix, slash, rest = word.partition("/")
        names.append(rest if slash and _kind(prefix) == kind else word)
    if not all(names):
        raise typer.BadParameter("a name is empty: write node/NAME")
    return kind, names


def _kind(word: str) -> Kind | None:
    if word in _NODES:
        return "nodes"
    if word in _CAPABILITIES:
        return "capabilities"
    return "runs" if word in _RUNS else None


def node_ref(word: str, namespace: str | None) -> Ref:
    """Read `NAME`, `node/NAME` or `NAMESPACE/NAME`.

    Raises:
        typer.BadParameter: a namespace is named twice, and not the same.
    """
    prefix, slash, rest = word.partition("/")
    if not slash:
        return Ref(namespace, word)
    if prefix in _NODES:
        return Ref(namespace, rest)
    if namespace not in (None, prefix):
        raise typer.BadParameter(f"{word!r} names another namespace than -n {namespace}")
    return Ref(prefix, rest)


def run_id(word: str) -> str:
    """Read `ID` or `run/ID`."""
    prefix, slash, rest = word.partition("/")
    return rest if slash and prefix in _RUNS else word


def run_or_card(word: str) -> tuple[Literal["run", "card"], str]:
    """Read `run/ID` or `card/NAME`.

    Raises:
        typer.BadParameter: it is neither.
    """
    prefix, _, rest = word.partition("/")
    if rest and prefix in _RUNS:
        return "run", rest
    if rest and prefix in ("card", "cards"):
        return "card", rest
    raise typer.BadParameter(f"{word!r}: name card/NAME or run/ID")


def default_namespace() -> str:
    """Return the namespace for commands that are not told one."""
    return os.environ.get("ROSTER_NAMESPACE") or "default"


def scope(namespace: str | None, all_namespaces: bool) -> str | None:
    """Return the namespace to look into, None for all.

    Raises:
        typer.BadParameter: both were asked for.
    """
    if all_namespaces:
        if namespace is not None:
            raise typer.BadParameter("-A and -n contradict each other: give one of them")
        return None
    return namespace or default_namespace()
