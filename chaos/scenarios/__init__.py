"""The scenarios: which team, which load, which fault, and what is promised."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from chaos.report import Options, Report, Scenario
from chaos.scenarios.crowd import crowd
from chaos.scenarios.failing import all_failing, half_failing
from chaos.scenarios.frozen import mass_revoke, store_freeze
from chaos.scenarios.hostile import hostile_keys
from chaos.scenarios.keyed import repeats
from chaos.scenarios.outages import leader_kill, store_restart
from chaos.scenarios.race import name_race
from chaos.scenarios.rebuilt import store_wiped
from chaos.scenarios.restarts import kill_and_restart, rolling_restart
from chaos.scenarios.standing import blocked_loop, freeze


def _line(function: Callable[..., object]) -> str:
    return (function.__doc__ or "").splitlines()[0]


def _of_team(function: Callable[[str | None, str | None], Awaitable[Report]]) -> Scenario:
    """A scenario about agents, on whichever registry and bus."""
    return Scenario(_line(function), lambda options: function(options.registry, options.bus), 120.0)


def _of_stores(function: Callable[[Options], Awaitable[Report]], within: float) -> Scenario:
    """A scenario about the servers of a registry, each started for it."""
    return Scenario(_line(function), function, within)


ALL: dict[str, Scenario] = {
    "kill-and-restart": _of_team(kill_and_restart),
    "freeze": _of_team(freeze),
    "rolling-restart": _of_team(rolling_restart),
    "blocked-loop": _of_team(blocked_loop),
    "half-failing": _of_team(half_failing),
    "all-failing": _of_team(all_failing),
    "repeats": _of_team(repeats),
    "two-hundred": _of_team(crowd),
    "store-restart": _of_stores(store_restart, 180.0),
    "store-freeze": _of_stores(store_freeze, 180.0),
    "leader-kill": _of_stores(leader_kill, 180.0),
    "mass-revoke": _of_stores(mass_revoke, 180.0),
    "store-wiped": _of_stores(store_wiped, 120.0),
    "hostile-keys": _of_stores(hostile_keys, 120.0),
    "name-race": _of_stores(name_race, 120.0),
}
