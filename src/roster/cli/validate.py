"""`roster validate` and `roster schema`: passports on paper, without a registry."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roster.cli.inputs import STDIN, files_in, from_stdin
from roster.cli.output import Data
from roster.cli.session import Session

if TYPE_CHECKING:
    from roster.passport import FileReport

VALIDATE_EXAMPLES = (
    "roster validate node_passport.yaml",
    "roster validate passports/                  every *.yaml, *.yml and *.json in it",
    "roster validate --strict *.yaml             an unknown field is a fault, too",
    "roster get node writer-001 -o yaml | roster validate -",
)
SCHEMA_EXAMPLES = (
    "roster schema > passport.schema.json",
    "roster schema -o yaml",
)
_MAX_STDIN = 8 * 1024 * 1024


def validate(
    session: Session,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Files, directories, or - for standard input.")
    ],
    output: Annotated[
        Data | None, typer.Option("-o", "--output", help="For programs.", show_default=False)
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail on warnings, such as unknown fields.", show_default=False)
    ] = False,
) -> int:
    """Check passports, and list every fault.

    Each fault is a line with file, line, column and path. Exits with 1 if there is a fault. Warnings go to standard error.
    """
    reports = [report for path in files for report in _reports(path)]
    bad = [report for report in reports if report.faults or (strict and report.warnings)]
    if output is not None:
        session.out.data({"ok": not bad, "files": [_as_data(report) for report in reports]}, output)
        return 1 if bad else 0
    for report in reports:
        session.out.lines(report.lines())
        for line in report.warning_lines():
            session.out.warning(line)
        if report not in bad:
            session.out.line(
                f"{report.source}: ok ({', '.join(passport.key for passport in report.passports)})"
            )
    return 1 if bad else 0


def schema(
    session: Session,
    output: Annotated[Data, typer.Option("-o", "--output", help="How to print it.")] = Data.JSON,
) -> None:
    """Print the JSON Schema of a passport.

    Editors complete and check passports with it.
    """
    from roster.passport import json_schema

    session.out.data(json_schema(), output)


def _reports(path: Path) -> list[FileReport]:
    from roster.passport import validate_files

    if str(path) == STDIN:
        return [_stdin_report()]
    return validate_files(files_in(path))


def _stdin_report() -> FileReport:
    from roster.passport import validate_files

    # The passport layer bounds what it reads from a file; a pipe is bounded here, one byte above any limit of its.
    with tempfile.NamedTemporaryFile(prefix="roster-", suffix=".yaml") as file:
        file.write(from_stdin(_MAX_STDIN))
        file.flush()
        return replace(validate_files([file.name])[0], source="<stdin>")


def _as_data(report: FileReport) -> dict[str, object]:
    return {
        "file": report.source,
        "ok": report.ok,
        "passports": [passport.key for passport in report.passports],
        "faults": [asdict(fault) for fault in report.faults],
        "warnings": [asdict(fault) for fault in report.warnings],
    }
