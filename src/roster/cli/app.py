"""Puts the commands together, runs one, and turns whatever ends it into an exit status."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from roster._version import __version__
from roster.cli import (
    call,
    card,
    card_cases,
    completion,
    control,
    dead,
    delete,
    demo_command,
    describe,
    doctor_command,
    drain,
    explain,
    find,
    gateway,
    get,
    logs,
    migrate,
    orchestrate,
    register,
    run_card,
    run_verbs,
    tap,
    transfer,
    validate,
    wait,
    watch,
)
from roster.cli.failures import EXIT_CODES, INTERRUPTED, report, report_usage
from roster.cli.options import epilog, with_shared
from roster.cli.run_group import CARD, RunGroup
from roster.cli.session import Session

# Public bases of a public class: Typer has moved the classes themselves between modules more than once.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

_SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

app = typer.Typer(
    name="roster",
    add_completion=False,  # `roster completion` prints the script instead of editing somebody's shell profile
    rich_markup_mode=None,  # plain help: it need not load a renderer, and brackets in it are brackets
    pretty_exceptions_enable=False,
    context_settings=_SETTINGS,
)


def _version(asked: bool) -> None:
    if asked:
        print(f"roster {__version__}")
        raise typer.Exit


def _root(
    session: Session,
    version: Annotated[
        bool,
        typer.Option(
            "-V", "--version", help="Show the version.", is_eager=True, callback=_version, show_default=False
        ),
    ] = False,
) -> None:
    """Find AI agents by what they can do, hand them work, and see who is there."""


def _add(
    function: Callable[..., Any],
    name: str,
    examples: Sequence[str],
    group: typer.Typer = app,
    **settings: Any,
) -> None:
    group.command(
        name,
        epilog=epilog(examples),
        context_settings={**_SETTINGS, **settings.pop("context_settings", {})},
        **settings,
    )(with_shared(function))


def _group(
    name: str, root: Callable[..., Any], examples: Sequence[str], cls: type[TyperGroup] = TyperGroup
) -> typer.Typer:
    """Make a command of commands."""
    group = typer.Typer(rich_markup_mode=None, context_settings=_SETTINGS, cls=cls)
    group.callback(epilog=epilog(examples), context_settings=_SETTINGS)(with_shared(root))
    app.add_typer(group, name=name)
    return group


def _said(error: Any) -> str:
    """Return what is wrong; our own errors name no parameter, and need no `Invalid value:` before them."""
    if isinstance(error, typer.BadParameter) and error.param is None:
        return error.message
    return str(error.format_message()).replace("Value error, ", "")


_CODES = "\b\nExit status:\n" + "\n".join(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES)
_CODES += "\n  `roster register -- CMD` exits with CMD's own status, 128 + n if signal n ended it."

app.callback(epilog=_CODES, context_settings=_SETTINGS)(with_shared(_root))
_add(validate.validate, "validate", validate.VALIDATE_EXAMPLES)
_add(validate.schema, "schema", validate.SCHEMA_EXAMPLES)
_add(
    register.register,
    "register",
    register.EXAMPLES,
    context_settings={"allow_interspersed_args": False},  # what follows CMD belongs to CMD
)
_add(get.get, "get", get.EXAMPLES)
_add(describe.describe, "describe", describe.EXAMPLES)
_add(find.find, "find", find.EXAMPLES)
_add(explain.explain, "explain", explain.EXAMPLES)
_add(call.call, "call", call.EXAMPLES)
_runs = _group("run", run_card.root, run_card.EXAMPLES, RunGroup)
_add(run_card.run, CARD, run_card.EXAMPLES, _runs, hidden=True)
_add(run_verbs.approve, "approve", run_verbs.APPROVE_EXAMPLES, _runs)
_add(run_verbs.reject, "reject", run_verbs.REJECT_EXAMPLES, _runs)
_add(run_verbs.skip, "skip", run_verbs.SKIP_EXAMPLES, _runs)
_add(run_verbs.signal, "signal", run_verbs.SIGNAL_EXAMPLES, _runs)
_add(run_verbs.pause, "pause", run_verbs.PAUSE_EXAMPLES, _runs)
_add(run_verbs.resume, "resume", run_verbs.RESUME_EXAMPLES, _runs)
_add(run_verbs.cancel, "cancel", run_verbs.CANCEL_EXAMPLES, _runs)
_add(run_verbs.prune, "prune", run_verbs.PRUNE_EXAMPLES, _runs)
_add(orchestrate.orchestrate, "orchestrate", orchestrate.EXAMPLES)
_add(run_verbs.pause_any, "pause", run_verbs.PAUSE_ALL_EXAMPLES)
_add(run_verbs.resume_any, "resume", run_verbs.RESUME_ALL_EXAMPLES)
_add(drain.drain, "drain", drain.DRAIN_EXAMPLES)
_add(drain.undrain, "undrain", drain.UNDRAIN_EXAMPLES)
_control = _group("control", control.root, control.EXAMPLES)
_add(control.pause, "pause", control.PAUSE_EXAMPLES, _control)
_add(control.resume, "resume", control.RESUME_EXAMPLES, _control)
_add(control.stop, "stop", control.STOP_EXAMPLES, _control)
_dead = _group("dead", dead.root, dead.EXAMPLES)
_add(dead.list_, "list", dead.LIST_EXAMPLES, _dead)
_add(dead.show, "show", dead.SHOW_EXAMPLES, _dead)
_add(dead.retry, "retry", dead.RETRY_EXAMPLES, _dead)
_add(dead.drop, "drop", dead.DROP_EXAMPLES, _dead)
_add(delete.delete, "delete", delete.DELETE_EXAMPLES)
_add(delete.prune, "prune", delete.PRUNE_EXAMPLES)
_add(wait.wait, "wait", wait.EXAMPLES)
_add(watch.watch, "watch", watch.EXAMPLES)
_add(tap.tap, "tap", tap.EXAMPLES)
_add(migrate.migrate, "migrate", migrate.EXAMPLES)
_add(transfer.export, "export", transfer.EXPORT_EXAMPLES)
_add(transfer.import_, "import", transfer.IMPORT_EXAMPLES)
_cards = _group("card", card.root, card.EXAMPLES)
_add(card.validate, "validate", card.VALIDATE_EXAMPLES, _cards)
_add(card.graph, "graph", card.GRAPH_EXAMPLES, _cards)
_add(card_cases.cases, "test", card_cases.EXAMPLES, _cards)
_add(gateway.gateway, "gateway", gateway.EXAMPLES)
_add(doctor_command.doctor, "doctor", doctor_command.EXAMPLES)
_add(demo_command.demo, "demo", demo_command.EXAMPLES)
_add(completion.completion, "completion", completion.EXAMPLES)


def run(args: Sequence[str]) -> int:
    """Run one command; return its exit status."""
    session = Session()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that is not UTF-8 gets escapes instead of an exception.
            stream.reconfigure(errors="backslashreplace")
    completion.prepare()
    try:
        command = get_command(app)
        status = command.main(
            list(args) or ["--help"], prog_name="roster", standalone_mode=False, obj=session
        )
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except SystemExit as ended:  # Typer's answer to a shell that asks for completions
        return ended.code if isinstance(ended.code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except _UsageError as error:
        context = getattr(error, "ctx", None)
        path = context.command_path.strip() if context is not None else "roster"
        return report_usage(_said(error), path, session.out)
    except Exception as error:  # noqa: BLE001 - the last place: it is told, with an exit status of its own
        return report(error, session.out, debug=session.debug)
    finally:
        logs.quiet()
