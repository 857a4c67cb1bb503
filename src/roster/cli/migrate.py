"""`roster migrate`: moves a registry to another store while both are in use."""

from __future__ import annotations

import asyncio
import signal
import sys
import uuid
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roster._clock import boottime
from roster.cli.options import seconds
from roster.cli.output import Data, Output
from roster.cli.session import Session
from roster.errors import ConfigError

if TYPE_CHECKING:
    from rich.progress import Progress

    from roster.registry.migration import Migration, Summary
    from roster.store import Store

EXAMPLES = (
    "roster migrate --from etcd://h1 --to consul://h2 --dry-run    what would be copied",
    "roster migrate --from etcd://h1 --to consul://h2              copy, compare both sides, done",
    "roster migrate --from etcd://h1 --to consul://h2 --follow     show living nodes there too, until Ctrl-C",
    "ROSTER_MIGRATE_TO=etcds://me:secret@h2 roster migrate         from ROSTER_REGISTRY, no secret in arguments",
)
_SAY_EVERY = 5.0


def migrate(
    session: Session,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="URL",
            envvar="ROSTER_MIGRATE_FROM",
            show_envvar=False,
            help="The registry to copy; without it ROSTER_MIGRATE_FROM, else the registry as everywhere.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="URL",
            envvar="ROSTER_MIGRATE_TO",
            show_envvar=False,
            help="Where to; without it ROSTER_MIGRATE_TO.",
            show_default=False,
        ),
    ] = None,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow",
            help="Mirror the living nodes as well, and go on until Ctrl-C (or SIGTERM).",
            show_default=False,
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be copied.", show_default=False)
    ] = False,
    retention: Annotated[
        str | None,
        typer.Option(
            "--retention",
            metavar="DURATION",
            help="How long the passport of a node that does not come over stays; without it ROSTER_RETENTION, else 1h.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Data | None, typer.Option("-o", "--output", help="The summary, for programs.", show_default=False)
    ] = None,
) -> int:
    """Copy a registry to another store, while both are in use.

    The source is never written. What is the same already is not written again: run it as often as you like, also after it
    was killed. A node that is registered in the target itself is left alone. At the end both sides are compared; the exit
    status is 1 if they differ.
    """
    if target is None:
        raise typer.BadParameter("name the registry to copy to: --to URL, or ROSTER_MIGRATE_TO")
    if follow and dry_run:
        raise typer.BadParameter("--follow and --dry-run contradict each other: give one of them")
    run = _Run(session.out, output, source or session.registry_url, target, follow=follow)
    try:
        if dry_run:
            return session.run(run.survey(empty=run.lacks_target))
        return session.run(run.copy(seconds(retention, "--retention")))
    finally:
        run.end_bar()


class _Run:
    """One run of the command: opens both registries, and says how it goes.

    Raises:
        ConfigError: a URL is wrong, or the source is no file.
    """

    def __init__(
        self, out: Output, form: Data | None, source_url: str | None, target_url: str, *, follow: bool
    ) -> None:
        from roster.store import store_url

        self._out = out
        self._form = form
        self._source_url, self._target_url = source_url, target_url
        self._where, self._whither = store_url(source_url), store_url(target_url)
        self._follow = follow
        self._bar: Progress | None = None
        self._total = 0
        self._said_at = 0.0
        self._level = False
        if self._where.scheme == "sqlite" and not Path(self._where.path).exists():
            raise ConfigError(f"there is no registry file {self._where.path}: correct --from")

    @property
    def lacks_target(self) -> bool:
        """Whether the target is a file that is not there yet: a dry run must not make it."""
        return self._whither.scheme == "sqlite" and not Path(self._whither.path).exists()

    async def survey(self, *, empty: bool) -> int:
        """Say what would be copied, to an empty registry or to the target as it is."""
        from roster.registry.migration import Migration

        async with AsyncExitStack() as stack:
            source, target = await self._open(
                stack, f"memory://{uuid.uuid4().hex}" if empty else self._target_url
            )
            summary = await Migration(source, target).plan()
        summary.target = self._whither.display
        if self._form is None:
            self._out.lines(f"would copy {unit}" for unit in summary.copied)
        return self._report(summary)

    async def copy(self, retention: float | None) -> int:
        """Copy, or follow."""
        from roster.registry.migration import Hooks, Migration, name_of
        from roster.registry.settings import DEFAULT_RETENTION, DEFAULT_TTL
        from roster.registry.settings import seconds as setting

        retention = setting(retention, "ROSTER_RETENTION", DEFAULT_RETENTION)
        ttl = setting(None, "ROSTER_TTL", DEFAULT_TTL)
        async with AsyncExitStack() as stack:
            source, target = await self._open(stack, self._target_url)
            name = name_of(self._where)
            self._out.note(f"copying from {name} to {name_of(self._whither)}")
            migration = Migration(
                source,
                target,
                name=name,
                follow=self._follow,
                retention=retention,
                ttl=ttl,
                hooks=Hooks(self._begun, self._worked, self._levelled, self._moved),
            )
            return await self._copy(migration)

    async def _open(self, stack: AsyncExitStack, target_url: str) -> tuple[Store, Store]:
        from roster.registry.migration import need_two
        from roster.store import open_store

        stores = []
        for url in (self._source_url, target_url):
            store = open_store(url)
            stack.push_async_callback(store.close)
            stores.append(await store.__aenter__())
        await need_two(stores[0], stores[1], self._where, self._whither)
        return stores[0], stores[1]

    async def _copy(self, migration: Migration) -> int:
        loop = asyncio.get_running_loop()
        working = asyncio.ensure_future(migration.run())
        loop.add_signal_handler(signal.SIGTERM, working.cancel)
        try:
            return self._report(await working)
        except asyncio.CancelledError:
            self.end_bar()
            self._farewell(migration.summary())
            # Ctrl-C cancels this task; SIGTERM ended the work alone.
            asked = asyncio.current_task()
            if asked is None or asked.cancelling():
                raise
            return 0 if self._level else 128 + signal.SIGTERM
        finally:
            loop.remove_signal_handler(signal.SIGTERM)

    # -- how it goes -------------------------------------------------------------------------------

    def _begun(self, total: int) -> None:
        self._total, self._said_at = total, boottime()
        if sys.stderr.isatty() and not self._out.structured:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            console = Console(stderr=True, no_color=not self._out.colour)
            columns = (TextColumn("copying"), BarColumn(), MofNCompleteColumn())
            self._bar = Progress(*columns, console=console, transient=True)
            self._bar.add_task("copying", total=total)
            self._bar.start()

    def _worked(self, done: int) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=min(done, self._total))
        elif not self._level and boottime() >= self._said_at + _SAY_EVERY:
            self._said_at = boottime()
            self._out.note(f"{min(done, self._total)} of {self._total} looked at")

    def _levelled(self, summary: Summary) -> None:
        self._level = True
        self.end_bar()
        if self._follow:
            self._report(summary)
            self._out.note(
                f"following; {summary.mirrored} living nodes are shown in the target; Ctrl-C ends it"
            )

    def _moved(self, unit: str, left: int) -> None:
        if self._level:
            rest = f"{left} more live in the source" if left else "no other lives in the source any more"
            self._out.note(f"{unit} has come over; {rest}")

    def end_bar(self) -> None:
        """Take the progress bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    # -- what came of it ---------------------------------------------------------------------------

    def _farewell(self, summary: Summary) -> None:
        if self._level:
            self._out.note(
                f"ended; the {summary.mirrored} nodes that live in the source are not shown as alive any more"
            )
            return
        self._out.note(
            f"interrupted: {len(summary.copied)} copied, {summary.unchanged} were there already, of "
            f"{summary.passports + summary.others}; run it again, and it goes on"
        )

    def _report(self, summary: Summary) -> int:
        out = self._out
        if self._form is not None:
            out.data(summary.to_dict(), self._form)
            return 0 if summary.ok else 1
        for key, reason in summary.faulty.items():
            out.warning(f"{key} is no passport that can be used, and is copied as it is: {reason}")
        for key, reason in summary.refused.items():
            out.warning(f"{key} is not copied: {reason}")
        for key in summary.different:
            out.warning(f"{key} is not the same on both sides")
        out.line(
            f"{len(summary.copied)} {'would be copied' if summary.dry_run else 'copied'}, {summary.unchanged} unchanged, "
            f"{len(summary.removed)} removed, {len(summary.theirs)} registered in the target itself; "
            f"the target has {summary.only_in_target} more"
        )
        if summary.dry_run:
            return 0
        if summary.ok:
            out.line(f"verified: {summary.passports} nodes and {summary.others} other keys are level")
            return 0
        out.error(
            f"the registries differ in {len(summary.refused) + len(summary.different)} keys, named above; run it again, and "
            "look who writes there"
        )
        return 1
