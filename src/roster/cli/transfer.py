"""`roster export` and `roster import`: the passports of a registry as a file, and back."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from roster.cli.encode import to_yaml
from roster.cli.options import AnyNamespace, SelectorText, seconds
from roster.cli.output import Data
from roster.cli.session import Session
from roster.errors import ConfigError, DocumentError

if TYPE_CHECKING:
    from roster.passport import FileReport
    from roster.registry import NodeRecord

EXPORT_EXAMPLES = (
    "roster export -o registry.yaml",
    "roster export -n ai-team -l role=writer | less",
)
IMPORT_EXAMPLES = (
    "roster import registry.yaml --dry-run       what would become of each",
    "roster import registry.yaml",
    "roster get nodes -A -o yaml | roster import - --registry sqlite:///srv/copy.db",
)


def export(
    session: Session,
    file: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Where to; without it standard output.", show_default=False
        ),
    ] = None,
    namespace: AnyNamespace = None,
    selector: SelectorText = None,
) -> int:
    """Write the passports of all nodes as YAML, one document each.

    They come in the order of namespace and name, with the status of this moment, which `roster import` does not take back.
    A document that the registry cannot read is named and left out; the exit status is 1 then.
    """
    if file is not None and file.is_dir():
        raise ConfigError(f"{file} is a directory: name a file in it")
    return session.run(_export(session, file, namespace, selector))


async def _export(session: Session, file: Path | None, namespace: str | None, selector: str | None) -> int:
    async with session.registry() as registry:
        records = await registry.find(namespace=namespace, selector=selector)
        quarantined = registry.quarantined
        if file is None:
            for text in _texts(records):
                session.out.text(text.rstrip("\n"))
        else:
            _write(file, _texts(records))
            session.out.note(f"{len(records)} passports written to {file}")
    for record in records:
        if refusal := _refusal(record):
            session.out.warning(f"{record.key} is exported, but `roster import` will refuse it: {refusal}")
    for key, reason in quarantined.items():
        session.out.warning(f"{key} is not exported: {reason}")
    return 1 if quarantined else 0


def _texts(records: list[NodeRecord]) -> Iterator[str]:
    for record in records:
        yield "---\n" + to_yaml(record.document())


def _refusal(record: NodeRecord) -> str:
    """Return why a document is no good passport; founding-style agents may store what `validate` would refuse."""
    from roster.passport import NodePassport

    try:
        NodePassport.from_dict(record.passport.to_dict(), source=record.key)
    except DocumentError as error:
        return "; ".join(error.lines())
    return ""


def _write(path: Path, texts: Iterator[str]) -> None:
    """Write a file whole or not at all."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            _put(out, texts)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise


def _put(out: TextIO, texts: Iterator[str]) -> None:
    for text in texts:
        out.write(text)


def import_(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What export wrote; - for standard input.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would become of each.", show_default=False)
    ] = False,
    retention: Annotated[
        str | None,
        typer.Option(
            "--retention",
            metavar="DURATION",
            help="How long a node that does not register stays listed; without it ROSTER_RETENTION, else 1h.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Data | None, typer.Option("-o", "--output", help="For programs.", show_default=False)
    ] = None,
) -> None:
    """Put exported passports back into the registry.

    Their nodes are offline until they register, and one that is alive is never touched. All passports are checked first: if
    one is wrong, every fault is listed and nothing is written. FILE is a stream of YAML documents, a `kind: List`, or JSON.
    """
    from roster.registry.settings import DEFAULT_RETENTION
    from roster.registry.settings import seconds as setting

    report = _report(file)
    for line in report.warning_lines():
        session.out.warning(line)
    if not report.ok:
        raise DocumentError(report.source, report.faults)
    kept = setting(seconds(retention, "--retention"), "ROSTER_RETENTION", DEFAULT_RETENTION)
    session.run(_import(session, report, kept, dry_run, output))


def _report(file: Path) -> FileReport:
    from roster.passport.stream import read_stream

    if str(file) == "-":
        return read_stream(sys.stdin.buffer, "<stdin>")
    if file.exists() and not file.is_file():
        raise ConfigError(
            f"{file} is not a regular file: name a file of YAML or JSON, or - for standard input"
        )
    with file.open("rb") as opened:
        return read_stream(opened, str(file))


async def _import(
    session: Session, report: FileReport, retention: float, dry_run: bool, form: Data | None
) -> None:
    from roster.registry.restore import restore

    async with session.registry() as registry:
        found = await restore(
            registry.store, report.passports, retention=retention, dry_run=dry_run, source=report.source
        )
    if form is not None:
        items = [{"node": one.node, "outcome": one.outcome, "reason": one.reason} for one in found]
        session.out.data({"dry_run": dry_run, "nodes": items}, form)
        return
    for one in found:
        if one.outcome == "alive":
            session.out.line(f"node {one.node} left alone: {one.reason}")
        else:
            would = "would be " if dry_run and one.outcome == "imported" else ""
            session.out.line(f"node {one.node} {would}{one.outcome}")
