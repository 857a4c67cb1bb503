"""`python -m chaos [SCENARIO...]`: run fault scenarios, print what happened, exit 1 if a promise was broken."""

from __future__ import annotations

import argparse
import asyncio
import sys

from chaos import scenarios


def main() -> int:
    """Run the scenarios named on the command line, or all."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument(
        "scenario", nargs="*", help=f"which to run: {', '.join(scenarios.ALL)} (default: all)"
    )
    parser.add_argument("--registry", help="registry URL (default: SQLite in a temporary directory)")
    parser.add_argument("--bus", help="bus URL (default: the local bus in a temporary directory)")
    options = parser.parse_args()
    unknown = [name for name in options.scenario if name not in scenarios.ALL]
    if unknown:
        parser.error(f"no scenario {', '.join(unknown)}; there are: {', '.join(scenarios.ALL)}")
    broken = 0
    for name in options.scenario or scenarios.ALL:
        function = scenarios.ALL[name]
        print(f"\n{name}: {function.__doc__.splitlines()[0] if function.__doc__ else ''}", flush=True)
        report = asyncio.run(asyncio.wait_for(function(options.registry, options.bus), scenarios.DEADLINE))
        for what, value in report.facts:
            print(f"  {what:<46} {value}")
        for promise, kept in report.promises:
            print(f"  {'kept  ' if kept else 'BROKEN'} {promise}")
            broken += not kept
    print(f"\n{broken} promises broken" if broken else "\nevery promise was kept")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
