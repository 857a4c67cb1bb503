"""The scenarios: which team, which load, which fault, and what is promised."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from chaos.report import Options, Report, Scenario
from chaos.scenarios.beside import beside
from chaos.scenarios.broker import broker_alarm, broker_kill
from chaos.scenarios.cards import card_kinds
from chaos.scenarios.crowd import crowd
from chaos.scenarios.deadly import hanging, query_of_death
from chaos.scenarios.failing import all_failing, half_failing
from chaos.scenarios.frozen import mass_revoke, store_freeze
from chaos.scenarios.hostile import hostile_keys
from chaos.scenarios.keyed import repeats
from chaos.scenarios.outages import leader_kill, store_restart
from chaos.scenarios.race import name_race
from chaos.scenarios.rebuilt import store_wiped
from chaos.scenarios.restarts import caller_kill, kill_and_restart, rolling_restart
from chaos.scenarios.runs import card_runs, killer_card, orchestrator_freeze, orchestrator_retire
from chaos.scenarios.standing import blocked_loop, freeze
from chaos.stores import bus_of


def _line(function: Callable[..., object]) -> str:
    return (function.__doc__ or "").splitlines()[0]


def _of_team(function: Callable[[Options], Awaitable[Report]], within: float = 120.0) -> Scenario:
    """A scenario about agents and callers, on whichever registry and bus."""

    async def run(options: Options) -> Report:
        async with bus_of(options.bus) as (url, broker):
            return await function(replace(options, bus=url, broker=broker))

    return Scenario(_line(function), run, within, of_bus=True)


def _of_runs(function: Callable[[Options], Awaitable[Report]], within: float) -> Scenario:
    """A scenario about orchestrators with runs of process cards, on whichever registry, bus and database."""
    return replace(_of_team(function, within), of_runs=True)


def _of_servers(function: Callable[[Options], Awaitable[Report]], within: float) -> Scenario:
    """A scenario about the servers of a registry, each started for it, or about a registry without a server."""
    return Scenario(_line(function), function, within)


ALL: dict[str, Scenario] = {
    "kill-and-restart": _of_team(kill_and_restart, 240.0),
    "caller-kill": _of_team(caller_kill, 240.0),
    "freeze": _of_team(freeze, 180.0),
    "rolling-restart": _of_team(rolling_restart),
    "blocked-loop": _of_team(blocked_loop),
    "half-failing": _of_team(half_failing),
    "all-failing": _of_team(all_failing),
    "query-of-death": _of_team(query_of_death),
    "hanging": _of_team(hanging),
    "repeats": _of_team(repeats),
    "card-runs": _of_runs(card_runs, 420.0),
    "card-kinds": _of_runs(card_kinds, 300.0),
    "killer-card": _of_runs(killer_card, 240.0),
    "orchestrator-freeze": _of_runs(orchestrator_freeze, 180.0),
    "orchestrator-retire": _of_runs(orchestrator_retire, 180.0),
    "broker-kill": replace(_of_servers(broker_kill, 180.0), of_bus=True),
    "broker-alarm": replace(_of_servers(broker_alarm, 180.0), of_bus=True),
    "beside": replace(_of_servers(beside, 900.0), of_bus=True),
    "two-hundred": _of_servers(crowd, 120.0),
    "store-restart": _of_servers(store_restart, 180.0),
    "store-freeze": _of_servers(store_freeze, 180.0),
    "leader-kill": _of_servers(leader_kill, 180.0),
    "mass-revoke": _of_servers(mass_revoke, 180.0),
    "store-wiped": _of_servers(store_wiped, 120.0),
    "hostile-keys": _of_servers(hostile_keys, 120.0),
    "name-race": _of_servers(name_race, 120.0),
}
