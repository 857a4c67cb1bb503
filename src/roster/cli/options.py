"""The options that every command takes, declared once, and the decorator that gives them to a command."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from roster._durations import parse_duration
from roster.cli.complete import complete_namespaces
from roster.cli.failures import BROKEN_PIPE, silence_stdout
from roster.cli.logs import show, wanted_format
from roster.cli.session import Session

REGISTRY_HELP = (
    "The registry; without it ROSTER_REGISTRY. A URL with a password belongs in the environment, where no "
    "list of processes shows it."
)
BUS_HELP = "The bus; without it ROSTER_BUS. The same holds for its password."

Namespace = Annotated[
    str | None,
    typer.Option(
        "-n",
        "--namespace",
        metavar="NS",
        help="Only this namespace; without it ROSTER_NAMESPACE, else 'default'.",
        autocompletion=complete_namespaces,
        show_default=False,
    ),
]
AnyNamespace = Annotated[
    str | None,
    typer.Option(
        "-n",
        "--namespace",
        metavar="NS",
        help="Only this namespace; without it all of them.",
        autocompletion=complete_namespaces,
        show_default=False,
    ),
]
AllNamespaces = Annotated[
    bool, typer.Option("-A", "--all-namespaces", help="All namespaces.", show_default=False)
]
SelectorText = Annotated[
    str | None,
    typer.Option(
        "-l",
        "--selector",
        metavar="SELECTOR",
        help="Only nodes whose labels match, such as 'role=writer,tier in (a,b),!legacy'.",
        show_default=False,
    ),
]


class LogFormat(StrEnum):
    """How the log is written."""

    TEXT = "text"
    JSON = "json"


# What every command takes, before its name or after it: name -> (annotation, default).
_SHARED: dict[str, tuple[Any, Any]] = {
    "registry_url": (
        Annotated[
            str | None, typer.Option("--registry", metavar="URL", help=REGISTRY_HELP, show_default=False)
        ],
        None,
    ),
    "bus_url": (
        Annotated[str | None, typer.Option("--bus", metavar="URL", help=BUS_HELP, show_default=False)],
        None,
    ),
    "verbose": (
        Annotated[
            int,
            typer.Option("-v", "--verbose", count=True, help="Say more; -vv says all.", show_default=False),
        ],
        0,
    ),
    "log_format": (
        Annotated[
            LogFormat | None,
            typer.Option(
                "--log-format",
                help="The log on standard error; without it ROSTER_LOG_FORMAT, else text.",
                show_default=False,
            ),
        ],
        None,
    ),
    "no_color": (
        Annotated[
            bool, typer.Option("--no-color", help="No colours (as with NO_COLOR).", show_default=False)
        ],
        False,
    ),
    "debug": (
        Annotated[
            bool,
            typer.Option(
                "--debug",
                help="Show the traceback of a failure (as with ROSTER_DEBUG=1).",
                show_default=False,
            ),
        ],
        False,
    ),
}


def with_shared(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function for Typer: the parameters of `function` without its first, the session, and the shared options.

    Options given behind the command's name count over those before it.
    """
    signature = inspect.signature(function, eval_str=True)
    own = list(signature.parameters.values())[1:]
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        for name, (annotation, default) in _SHARED.items()
    ]
    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]

    def command(**given: Any) -> Any:
        context: typer.Context = given.pop("ctx")
        session: Session = context.obj
        _apply(session, {name: given.pop(name) for name in _SHARED})
        try:
            return function(session, **given)
        except BrokenPipeError:
            # Here, because Typer would make an exit status of 1 of it.
            silence_stdout()
            raise typer.Exit(BROKEN_PIPE) from None

    parameters = [context, *keyword, *shared]
    command.__name__ = function.__name__
    command.__doc__ = function.__doc__
    # Typer reads either, by version; both are evaluated already.
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # inspect honours it on functions
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _apply(session: Session, given: dict[str, Any]) -> None:
    session.registry_url = given["registry_url"] or session.registry_url
    session.bus_url = given["bus_url"] or session.bus_url
    session.verbose = max(session.verbose, given["verbose"])
    session.debug = session.debug or given["debug"]
    if given["no_color"]:
        session.out.colour = False
    if given["log_format"] is not None:
        session.log_format = given["log_format"].value
    form = wanted_format(session.log_format)
    session.out.structured = form == "json"
    show(session.verbose, form)


def epilog(examples: Sequence[str]) -> str:
    r"""Return examples as the end of a help page. `\b` keeps Typer from wrapping them."""
    return "\b\nExamples:\n" + "\n".join(f"  {example}" for example in examples)


def seconds(text: str | None, option: str) -> float | None:
    """Read an option that is a duration.

    Raises:
        typer.BadParameter: it is none.
    """
    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(f"{option} {text!r}: {error}") from None
