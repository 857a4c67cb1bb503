"""WHICH node: strategies, the count of load, the ejection of nodes that keep failing. Pure: no I/O."""

from roster.routing.account import Routable
from roster.routing.load import Load, Report
from roster.routing.outlier import EjectionPolicy
from roster.routing.router import Outcome, Router, RouterStats
from roster.routing.select import select_best_node, select_least_loaded
from roster.routing.strategies import STRATEGIES, LeastLoaded, Random, RoundRobin, Sticky, Strategy
from roster.routing.tier import Seat, Tier

__all__ = [
    "STRATEGIES",
    "EjectionPolicy",
    "LeastLoaded",
    "Load",
    "Outcome",
    "Random",
    "Report",
    "RoundRobin",
    "Routable",
    "Router",
    "RouterStats",
    "Seat",
    "Sticky",
    "Strategy",
    "Tier",
    "select_best_node",
    "select_least_loaded",
]
