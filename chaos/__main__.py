"""`python -m chaos [SCENARIO...]`: run fault scenarios, print what happened, exit 1 if a promise was broken.

All of them take about thirty-five minutes on two cores. Those about servers (store-..., leader-kill, mass-revoke,
hostile-keys, name-race; broker-...) start their own etcd, Consul, ZooKeeper and RabbitMQ, which scripts/setup-servers
fetches.
`beside` takes other libraries through the same faults, from the environments that scripts/setup-peers makes.
With --bus and no names, those are run that go over the bus; with --runs alone, those about runs of process cards.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import traceback
from pathlib import Path

from chaos import scenarios
from chaos.report import STORES, Options, Report, Scenario
from roster._clock import boottime


def _seconds(text: str) -> float:
    value = float(text)
    if not 6 <= value <= 600:  # two leases of 3 s, so that there is something to come back from
        raise argparse.ArgumentTypeError(f"between 6 and 600, not {text}")
    return value


def _run(scenario: Scenario, options: Options) -> Report:
    """Run a scenario; one that does not come to its end has broken its promise, and the next is run all the same."""
    try:
        return asyncio.run(asyncio.wait_for(scenario.run(options), scenario.within))
    except Exception as error:  # noqa: BLE001 - whatever it is: it is shown, and counted
        traceback.print_exc()
        report = Report()
        report.promise(f"it comes to its end ({type(error).__name__}: {error})", False)
        return report


def main() -> int:
    """Run the scenarios named on the command line, or all."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument(
        "scenario", nargs="*", help=f"which to run: {', '.join(scenarios.ALL)} (default: all)"
    )
    parser.add_argument(
        "--registry",
        help="registry URL; in the scenarios about runs also `etcd`, `consul`, `zookeeper`: one started for each "
        "(default: SQLite in a temporary directory)",
    )
    parser.add_argument(
        "--bus",
        help="bus URL; `amqp`: a RabbitMQ started for each scenario (default: the local bus in a temporary directory)",
    )
    parser.add_argument(
        "--runs",
        help="database URL for the scenarios about runs; `postgres`: a PostgreSQL started for each, which several "
        "orchestrators share (default: SQLite in a temporary directory)",
    )
    parser.add_argument(
        "--store",
        action="append",
        choices=STORES,
        help="try this server alone in the scenarios about servers; may be repeated (default: all three)",
    )
    parser.add_argument(
        "--frozen",
        type=_seconds,
        default=Options().frozen,
        metavar="SECONDS",
        help="how long an agent stands still in `freeze`, at least 6 (default: %(default)g)",
    )
    parser.add_argument(
        "--draw", type=Path, metavar="FILE", help="draw what `beside` saw, as SVG (default: draw nothing)"
    )
    given = parser.parse_args()
    unknown = [name for name in given.scenario if name not in scenarios.ALL]
    if unknown:
        parser.error(f"no scenario {', '.join(unknown)}; there are: {', '.join(scenarios.ALL)}")
    options = Options(
        given.registry, given.bus, tuple(given.store or STORES), given.frozen, given.runs, given.draw
    )
    asked = [
        name
        for name, scenario in scenarios.ALL.items()
        if (scenario.of_bus or not given.bus) and (scenario.of_runs or not given.runs)
    ]
    broken = 0
    for name in given.scenario or asked:
        scenario = scenarios.ALL[name]
        print(f"\n{name}: {scenario.what}", flush=True)
        began = boottime()
        report = _run(scenario, options)
        for what, value in report.facts:
            print(f"  {what:<56} {value}")
        for promise, kept in report.promises:
            print(f"  {'kept  ' if kept else 'BROKEN'} {promise}")
            broken += not kept
        print(f"  in {boottime() - began:.0f} s", flush=True)
    print(f"\n{broken} promises broken" if broken else "\nevery promise was kept")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
