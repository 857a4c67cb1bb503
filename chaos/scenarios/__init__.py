"""The scenarios: which team, which load, which fault, and what is promised."""

from __future__ import annotations

from chaos.report import Scenario
from chaos.scenarios.crowd import crowd
from chaos.scenarios.failing import all_failing, half_failing
from chaos.scenarios.keyed import repeats
from chaos.scenarios.restarts import kill_and_restart, rolling_restart
from chaos.scenarios.standing import blocked_loop, freeze

DEADLINE = 120.0
"""Seconds that one scenario may take at most."""

ALL: dict[str, Scenario] = {
    "kill-and-restart": kill_and_restart,
    "freeze": freeze,
    "rolling-restart": rolling_restart,
    "blocked-loop": blocked_loop,
    "half-failing": half_failing,
    "all-failing": all_failing,
    "repeats": repeats,
    "two-hundred": crowd,
}
