"""How an agent of the examples is started, and how it says that its params make no sense."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from roster import Code, Node, RemoteError, RosterError

PASSPORTS = Path(__file__).parents[1] / "passports"


def passport_of(default: str, arguments: list[str] | None = None) -> Path:
    """Return the passport to start with: `--passport FILE`, else `ROSTER_PASSPORT`, else `default` of the examples.

    The registry and the bus come from the environment, as for every node: `ROSTER_REGISTRY` and `ROSTER_BUS`, or
    `ETCD_HOST`, `ETCD_PORT` and `RABBITMQ_HOST`.
    """
    parser = argparse.ArgumentParser(description="An agent of the examples; it runs until SIGTERM.")
    parser.add_argument(
        "--passport",
        metavar="FILE",
        type=Path,
        help=f"its passport; without it ROSTER_PASSPORT, else {default} of the examples",
    )
    given: Path | None = parser.parse_args(arguments).passport
    return given or Path(os.environ.get("ROSTER_PASSPORT") or PASSPORTS / default)


def main(make: Callable[[str | os.PathLike[str]], Node], default: str) -> None:
    """Make the node of the passport that was given, and run it until SIGTERM; an error is one line, and an exit status."""
    try:
        make(passport_of(default)).run()
    except RosterError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


@contextmanager
def refusing() -> Iterator[None]:
    """Turn a `ValueError`, which the skills raise about what they were given, into an error that no second try will mend."""
    try:
        yield
    except ValueError as error:
        raise RemoteError(str(error), code=Code.INVALID_ARGUMENT, retryable=False) from error
