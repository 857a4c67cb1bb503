"""`roster call`: have a capable node do it, and print what it answered."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roster.cli.complete import complete_capabilities
from roster.cli.encode import to_json
from roster.cli.options import AnyNamespace, SelectorText, seconds
from roster.cli.params import document_params, pair_params
from roster.cli.session import Session
from roster.errors import DocumentError

if TYPE_CHECKING:
    from roster.cli.output import Output
    from roster.registry import NodeRecord, Registry

EXAMPLES = (
    "roster call write_article -p topic=bees -p style=plain",
    'roster call resize -p width:=640 -p \'tags:=["a","b"]\'        := takes JSON',
    "roster call write_article --params @params.json --timeout 2m --progress",
    "roster call write_article -p topic=bees -l team=content --strategy random -o yaml",
    "roster call write_article -p topic=bees | jq -r .article",
)


class Result(StrEnum):
    """How a result is printed."""

    JSON = "json"
    YAML = "yaml"
    RAW = "raw"


class Strategy(StrEnum):
    """How to choose among nodes with room."""

    LEAST_LOADED = "least_loaded"
    ROUND_ROBIN = "round_robin"
    RANDOM = "random"
    STICKY = "sticky"


def call(
    session: Session,
    capability: Annotated[
        str,
        typer.Argument(
            metavar="CAPABILITY", help="What is to be done.", autocompletion=complete_capabilities
        ),
    ],
    param: Annotated[
        list[str] | None,
        typer.Option(
            "-p",
            "--param",
            metavar="NAME=TEXT|NAME:=JSON",
            help="One param; a number or a boolean where the capability's schema asks for one. Can be repeated.",
            show_default=False,
        ),
    ] = None,
    params: Annotated[
        str | None,
        typer.Option(
            "--params",
            metavar="JSON|@FILE|-",
            help="All params, a JSON object; -p goes on top.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[
        str, typer.Option("--timeout", metavar="DURATION", help="For everything, further tries included.")
    ] = "30s",
    selector: SelectorText = None,
    version: Annotated[
        str | None,
        typer.Option(
            "--version", metavar="RANGE", help="Of the capability, such as '>=1.2,<2'.", show_default=False
        ),
    ] = None,
    namespace: AnyNamespace = None,
    strategy: Annotated[
        Strategy | None,
        typer.Option("--strategy", help="How to choose the node.", show_default="least_loaded"),
    ] = None,
    sticky_key: Annotated[
        str | None,
        typer.Option(
            "--sticky-key",
            metavar="KEY",
            help="With --strategy sticky: calls with one key meet one node.",
            show_default=False,
        ),
    ] = None,
    priority: Annotated[
        int, typer.Option("--priority", min=0, max=9, help="Among commands that wait, higher goes first.")
    ] = 0,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            "--idempotency-key",
            metavar="KEY",
            help="One effect for one key: a repeat gets the answer of the first call.",
            show_default=False,
        ),
    ] = None,
    progress: Annotated[
        bool, typer.Option("--progress", help="Show progress events on standard error.", show_default=False)
    ] = False,
    output: Annotated[
        Result, typer.Option("-o", "--output", help="raw prints text as it is, and JSON on one line.")
    ] = Result.JSON,
) -> None:
    """Have the best node do it, and print its result.

    The node is chosen among all that can, in all namespaces; if it dies, refuses or fails in passing, another is tried
    within the timeout.
    """
    if (strategy == Strategy.STICKY) != (sticky_key is not None):
        raise typer.BadParameter("--strategy sticky and --sticky-key KEY go together")
    options: dict[str, Any] = {
        "timeout": seconds(timeout, "--timeout"),
        "selector": selector,
        "version": version,
        "namespace": namespace,
        "strategy": strategy.value if strategy is not None else None,
        "sticky_key": sticky_key,
        "priority": priority,
        "idempotency_key": idempotency_key,
    }
    if progress:

        def show(node: NodeRecord, data: Mapping[str, Any]) -> None:
            session.out.note(f"{node.key} {to_json(data, indent=None)}")

        options["on_progress"] = show
    document = document_params(params)
    result = session.run(_call(session, capability, document, param or [], options))
    print_result(session.out, result, output)


def print_result(out: Output, result: Any, form: Result) -> None:
    """Print what a node returned."""
    if form != Result.RAW:
        out.data(result, form)
    elif isinstance(result, str):
        out.text(result)
    else:
        out.json(result, compact=True)


async def _call(
    session: Session, capability: str, params: dict[str, Any], pairs: list[str], options: dict[str, Any]
) -> Any:
    async with session.orchestrator() as orchestrator:
        if pairs:
            # `k:=JSON` needs no schema, so nothing is looked up for it.
            exact = all(pair.partition("=")[0].endswith(":") for pair in pairs)
            schemas = [] if exact else await _schemas(orchestrator.registry, capability, options)
            params = {**params, **pair_params(pairs, schemas)}
        answer = await orchestrator.ask(capability, params, **options)
        if session.verbose:
            tries = len(answer.attempts)
            session.out.note(
                f"answered by {answer.node} in {answer.duration:.3f} s"
                + (f", at try {tries}" if tries > 1 else "")
            )
        return answer.result


async def _schemas(registry: Registry, capability: str, options: Mapping[str, Any]) -> list[Any]:
    found = await registry.find_by_capability(
        capability,
        selector=options["selector"],
        version=options["version"],
        namespace=options["namespace"],
        healthy=None,
    )
    schemas = []
    for record in found[:32]:  # nodes of one capability declare it alike, or nearly so
        declared = record.passport.capability(capability)
        try:
            schemas.append(declared.input_json_schema if declared is not None else None)
        except DocumentError:
            continue  # its schema cannot be used: the call itself says so, should it go there
    return schemas
