"""`roster completion`: prints the script that makes a shell complete commands, options and names."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated

import typer
from typer import completion as machinery

from roster.cli.session import Session

EXAMPLES = (
    "roster completion bash > ~/.local/share/bash-completion/completions/roster",
    'roster completion zsh > "${fpath[1]}/_roster"',
    "roster completion fish > ~/.config/fish/completions/roster.fish",
    "source <(roster completion bash)",
)
_VARIABLE = "_ROSTER_COMPLETE"


class Shell(StrEnum):
    """A shell that can complete."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def prepare() -> None:
    """Have Typer answer in its shells' ways when a shell asks for completions."""
    if os.environ.get(_VARIABLE):
        machinery.completion_init()  # type: ignore[attr-defined]  # what add_completion=True would call, without its options


def completion(session: Session, shell: Annotated[Shell, typer.Argument(help="Your shell.")]) -> None:
    """Print a script for shell completion.

    Commands, options, and the names of nodes, capabilities and namespaces are completed; the names are read from the
    registry, within a second.
    """
    script = machinery.get_completion_script(prog_name="roster", complete_var=_VARIABLE, shell=shell.value)  # type: ignore[attr-defined]  # Typer's own script; it exports it to its modules only
    session.out.text(script)
