"""A group with a command of its own: `roster run CARD` beside `roster run cancel ID`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typer.core import CompletionItem, TyperGroup  # type: ignore[attr-defined]  # it is what `shell_complete` returns

# Not a word that anybody writes: a card whose file is called like a verb is given as ./cancel.
CARD = "CARD"
_CARDS = (".yaml", ".yml", ".json")
_MOST = 200


class RunGroup(TyperGroup):
    """Takes a first word that is one of its verbs as the verb, and everything else as what `run` itself is given."""

    # Typer has two types for one context, and moves them between modules: `Any` stands for either.

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the name of the command for cards before what names no verb."""
        if not (args or ctx.resilient_parsing) or (args and not self._is_verb(args)):
            args = [CARD, *args]
        return super().parse_args(ctx, args)

    def _is_verb(self, args: Sequence[str]) -> bool:
        """Return whether the first word is a verb, or help is wanted. Options that all commands take may stand before."""
        flags = {
            name: getattr(param, "is_flag", False) or getattr(param, "count", False)
            for param in self.params
            for name in getattr(param, "opts", ())
        }
        words = iter(args)
        for word in words:
            if word in ("-h", "--help"):
                return True
            if not word.startswith("-") or word == "-":
                return word in self.commands and word != CARD
            name, equals, _ = word.partition("=")
            if name not in flags:
                return False
            if not flags[name] and not equals:
                next(words, None)
        return False

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command; the one for cards has no name of its own in usage and errors."""
        name, command, rest = super().resolve_command(ctx, args)
        return (None if name == CARD else name), command, rest

    # -- help and completion: both ways at once ------------------------------------------------------------------------

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        """Show both ways."""
        formatter.write_usage(ctx.command_path, "[OPTIONS] CARD")
        formatter.write_usage(ctx.command_path, self.subcommand_metavar, prefix=" " * len("Usage: "))

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Show what the command for cards does."""
        self.commands[CARD].format_help_text(ctx, formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Show the options of the command for cards, which has those of all commands too, and the verbs."""
        self.commands[CARD].format_options(ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Show the examples of both."""
        self.commands[CARD].format_epilog(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[CompletionItem]:
        """Offer verbs and card files, or the options of the command for cards."""
        if incomplete.startswith("-"):
            return self.commands[CARD].shell_complete(ctx, incomplete)
        return [*super().shell_complete(ctx, incomplete), *map(CompletionItem, card_files(incomplete))]


def card_files(incomplete: str) -> list[str]:
    """Return the files that may be cards and begin so. The shell's own completion finds directories."""
    folder, name = os.path.split(incomplete)
    try:
        found = sorted(entry.name for entry in os.scandir(Path(folder or ".")) if entry.is_file())
    except OSError:
        return []
    return [
        str(Path(folder, one)) if folder else one
        for one in found
        if one.startswith(name) and one.endswith(_CARDS) and one.isprintable() and not one.startswith(".")
    ][:_MOST]
