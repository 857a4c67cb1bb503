"""`roster control`: signals to running nodes, each confirmed by the node that it names."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roster.cli.complete import complete_nodes
from roster.cli.names import node_ref, scope
from roster.cli.options import AllNamespaces, Namespace, SelectorText, seconds
from roster.cli.session import Session
from roster.errors import CallError, CallTimeoutError

if TYPE_CHECKING:
    from roster.orchestrator import NodeAnswer

EXAMPLES = (
    "roster control pause node/writer-001 -n ai-team",
    "roster control resume --all -A",
    "roster control stop -l role=writer -n ai-team --timeout 2m",
)
PAUSE_EXAMPLES = (
    "roster control pause node/writer-001 -n ai-team",
    "roster control pause -l 'role=writer,tier in (a,b)' -A",
)
RESUME_EXAMPLES = ("roster control resume writer-001 -n ai-team", "roster control resume --all")
STOP_EXAMPLES = (
    "roster control stop ai-team/writer-001",
    "roster control stop -l role=writer -n ai-team --timeout 2m",
)

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME", help="Nodes; also node/NAME, NAMESPACE/NAME.", autocompletion=complete_nodes
    ),
]
All = Annotated[bool, typer.Option("--all", help="All nodes of the namespace.", show_default=False)]
Timeout = Annotated[str, typer.Option("--timeout", metavar="DURATION", help="For each node.")]


class Form(StrEnum):
    """How the answers are printed."""

    TEXT = "text"
    JSON = "json"


Shape = Annotated[Form, typer.Option("-o", "--output", help="json: all answers as one object.")]


def root(session: Session) -> None:
    """Pause, resume or stop running nodes."""


def pause(
    session: Session,
    names: Names = None,
    namespace: Namespace = None,
    all_namespaces: AllNamespaces = False,
    selector: SelectorText = None,
    all_nodes: All = False,
    timeout: Timeout = "10s",
    output: Shape = Form.TEXT,
) -> None:
    """Have nodes take no new work; what they run they finish.

    What waits in their hands goes to others. They are shown as draining, with the condition TakesWork=False, until
    'roster control resume', or until they are started again: what is to outlast that is 'roster drain'.
    """
    _run(session, "pause", "paused", names, namespace, all_namespaces, selector, all_nodes, timeout, output)


def resume(
    session: Session,
    names: Names = None,
    namespace: Namespace = None,
    all_namespaces: AllNamespaces = False,
    selector: SelectorText = None,
    all_nodes: All = False,
    timeout: Timeout = "10s",
    output: Shape = Form.TEXT,
) -> None:
    """Have paused nodes take work again."""
    _run(session, "resume", "resumed", names, namespace, all_namespaces, selector, all_nodes, timeout, output)


def stop(
    session: Session,
    names: Names = None,
    namespace: Namespace = None,
    all_namespaces: AllNamespaces = False,
    selector: SelectorText = None,
    all_nodes: All = False,
    timeout: Timeout = "1m",
    output: Shape = Form.TEXT,
) -> None:
    """Have nodes finish what they run, leave, and end, as by SIGTERM.

    A node is reported when it has left the registry. Whatever keeps its process running (systemd, Kubernetes) may start it
    again: then stop it there.
    """
    _run(
        session, "shutdown", "stopped", names, namespace, all_namespaces, selector, all_nodes, timeout, output
    )


def _run(
    session: Session,
    signal: str,
    done: str,
    names: list[str] | None,
    namespace: str | None,
    all_namespaces: bool,
    selector: str | None,
    all_nodes: bool,
    timeout: str,
    form: Form,
) -> None:
    if bool(names) + (selector is not None) + all_nodes != 1:
        raise typer.BadParameter("say which nodes: names, -l SELECTOR or --all, and only one of them")
    if names and all_namespaces:
        raise typer.BadParameter("-A and NAME contradict each other: give one of them")
    space = scope(namespace, all_namespaces)
    refs = [node_ref(word, namespace) for word in names or ()]
    options: dict[str, Any] = {
        "nodes": [f"{ref.namespace or space}/{ref.name}" for ref in refs] if names else None,
        "selector": selector,
        "namespace": space,
        "timeout": seconds(timeout, "--timeout"),
    }
    if form == Form.TEXT:
        options["on_answer"] = lambda answer: _tell(session, answer, done)
    answers = session.run(_control(session, signal, options))
    silent = [(answer, answer.error) for answer in answers if answer.error is not None]
    if form == Form.JSON:
        session.out.json(
            {
                "signal": signal,
                "confirmed": [answer.result for answer in answers if answer.error is None],
                "silent": [
                    {"node": answer.node, "code": error.code, "error": error.summary}
                    for answer, error in silent
                ],
            }
        )
    if silent:
        late = all(isinstance(error, CallTimeoutError) for _, error in silent)
        text = f"{len(silent)} of {len(answers)} nodes not {done}: {', '.join(answer.node for answer, _ in silent)}"
        raise (CallTimeoutError if late else CallError)(text)


async def _control(session: Session, signal: str, options: dict[str, Any]) -> list[NodeAnswer]:
    async with session.orchestrator() as orchestrator:
        return await orchestrator.control(signal, **options)


def _tell(session: Session, answer: NodeAnswer, done: str) -> None:
    if answer.error is not None:
        session.out.warning(str(answer.error))
        return
    session.out.line(f"node/{answer.node.partition('/')[2]} {done}")
    if done == "resumed" and answer.result.get("reasons"):
        why = ", ".join(map(str, answer.result["reasons"]))
        hint = ": see 'roster undrain'" if "drain" in answer.result["reasons"] else ""
        session.out.warning(f"{answer.node} still takes no new work: {why}{hint}")
