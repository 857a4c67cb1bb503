"""What Prometheus is told, with a bounded number of values for every label."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from starlette.types import Scope

from roster.errors import Attempt

if TYPE_CHECKING:
    from roster.gateway.core import Gateway

OTHER = "other"
MAX_CAPABILITIES = 200
MAX_NODES = 1000
_STATES = ("starting", "ready", "busy", "draining", "unknown", "offline")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Agents answer in milliseconds to minutes.
_CALL_BUCKETS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_HTTP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1, 5, 30)


class Bounded:
    """Lets so many values of a label through by name, and calls the rest `other`.

    A label's value that was seen once is a time series for as long as the process lives: whoever may choose values at will
    could otherwise fill this process and the database behind it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def of(self, value: str) -> str:
        """Return the value, or `other`."""
        if value in self._known:
            return value
        if len(self._known) >= self._most:
            return OTHER
        self._known.add(value)
        return value


class Metrics:
    """The metrics of one gateway; the names are in docs/gateway.md."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._capabilities = Bounded(MAX_CAPABILITIES)
        self._nodes = Bounded(MAX_NODES)
        self.registry = registry = CollectorRegistry()
        self.calls = Counter(
            "roster_calls", "Calls through this gateway.", ["capability", "outcome"], registry=registry
        )
        self.durations = Histogram(
            "roster_call_duration_seconds",
            "From the call to its end.",
            ["capability"],
            buckets=_CALL_BUCKETS,
            registry=registry,
        )
        self.in_flight = Gauge(
            "roster_calls_in_flight", "Calls that are not over.", ["capability"], registry=registry
        )
        self.attempts = Counter(
            "roster_call_attempts", "Tries of calls.", ["capability", "node", "outcome"], registry=registry
        )
        self.retries = Counter(
            "roster_call_retries", "Tries beyond the first.", ["capability"], registry=registry
        )
        self.failovers = Counter(
            "roster_call_failovers",
            "Tries beyond the first on another node.",
            ["capability"],
            registry=registry,
        )
        self.lease_losses = Counter(
            "roster_lease_losses", "Leases of nodes over HTTP that were lost.", registry=registry
        )
        self.expirations = Counter(
            "roster_node_expirations", "Nodes over HTTP that fell silent for their TTL.", registry=registry
        )
        self.requests = Counter(
            "roster_http_requests",
            "Requests, by the pattern of their path.",
            ["method", "route", "status"],
            registry=registry,
        )
        self.request_durations = Histogram(
            "roster_http_request_duration_seconds", "From the headers to the end of the answer.", ["route"],
            buckets=_HTTP_BUCKETS, registry=registry,
        )  # fmt: skip
        self.doors = Counter(
            "roster_http_refused", "Requests that a door turned away.", ["door"], registry=registry
        )
        registry.register(_Present(gateway))

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)

    # -- what happens ------------------------------------------------------------------------------

    def capability(self, name: str) -> str:
        """Return a capability as a label: by its name if somebody has it, or had it here before."""
        known = self._gateway.registry.informer.catalog.index.capabilities
        if name not in known and name not in self._capabilities._known:
            return OTHER
        return self._capabilities.of(name)

    def request(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a request."""
        route = getattr(scope.get("route"), "path", None)
        path = route if isinstance(route, str) else OTHER
        method = scope["method"] if scope["method"] in _METHODS else OTHER
        self.requests.labels(method, path, str(status)).inc()
        self.request_durations.labels(path).observe(seconds)

    def refused(self, door: str) -> None:
        """Count a request that a door turned away; `door` is the problem's type."""
        self.doors.labels(door).inc()

    def call_ended(self, capability: str, outcome: str, seconds: float, attempts: Iterable[Attempt]) -> None:
        """Count a call."""
        name = self.capability(capability)
        self.calls.labels(name, outcome).inc()
        self.durations.labels(name).observe(seconds)
        before: str | None = None
        for attempt in attempts:
            said = "ok" if not attempt.error else str(attempt.code or "UNKNOWN")
            self.attempts.labels(name, self._nodes.of(attempt.node), said).inc()
            if before is not None:
                self.retries.labels(name).inc()
                if attempt.node != before:
                    self.failovers.labels(name).inc()
            before = attempt.node


class _Present:
    """What is looked up at the moment of asking."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def describe(self) -> Iterable[Metric]:
        """Nothing is looked up before the gateway is open."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Look everything up."""
        gateway = self._gateway
        informer = gateway.registry.informer
        records = sorted(informer.all(), key=lambda record: record.key)
        states = dict.fromkeys(_STATES, 0)
        for record in records:
            states[record.state] = states.get(record.state, 0) + 1
        yield _gauge(
            "roster_nodes",
            "Nodes in the registry.",
            ["state"],
            (([state], count) for state, count in states.items()),
        )
        named = records[:MAX_NODES]
        yield _gauge(
            "roster_node_active_tasks", "Tasks that a node has in hand.", ["namespace", "node"],
            (([one.namespace, one.name], one.active_tasks) for one in named),
        )  # fmt: skip
        yield _gauge(
            "roster_node_capacity", "Tasks that a node runs at once.", ["namespace", "node"],
            (([one.namespace, one.name], one.capacity) for one in named),
        )  # fmt: skip
        yield from self._capabilities()
        router = gateway.orchestrator.team.router
        yield _counter("roster_ejections", "Nodes left out for failing.", router.stats.ejected)
        yield _plain("roster_ejected_nodes", "Nodes that are left out at present.", len(router.ejected()))
        yield _plain(
            "roster_informer_staleness_seconds", "Age of the copy of the registry.", gateway.staleness
        )
        yield _plain(
            "roster_informer_connected", "Whether the watch of the store is open.", int(informer.connected)
        )
        yield _counter("roster_informer_listings", "How often everything was listed.", informer.listings)
        yield _plain(
            "roster_quarantined_documents",
            "Documents that cannot be read.",
            len(informer.catalog.quarantined),
        )
        yield _plain("roster_http_nodes", "Nodes over HTTP at this gateway.", gateway.members.count)
        yield _counter("roster_bus_reconnects", "Connections to the bus made anew.", gateway.reconnects)
        yield _plain("roster_http_connections", "Open connections.", gateway.connections())
        yield _plain("roster_http_streams", "Open streams and long polls.", gateway.streams)

    def _capabilities(self) -> Iterator[Metric]:
        from roster.gateway.demand import availability, demand

        gateway = self._gateway
        names = sorted(gateway.registry.informer.catalog.index.capabilities)[:MAX_CAPABILITIES]
        looked = [(name, availability(gateway, name, None), demand(gateway, name, None)) for name in names]
        yield _gauge(
            "roster_capability_nodes", "Healthy nodes that offer it.", ["capability"],
            (([name], found["healthy"]) for name, found, _ in looked),
        )  # fmt: skip
        yield _gauge(
            "roster_capability_free", "Tasks that they have room for.", ["capability"],
            (([name], found["free"]) for name, found, _ in looked),
        )  # fmt: skip
        yield _gauge(
            "roster_capability_demand", "Work for it, by kind.", ["capability", "kind"],
            (
                ([name, kind], wanted[kind])
                for name, _, wanted in looked
                for kind in ("queued", "running", "waiting_for_node")
            ),
        )  # fmt: skip


def _gauge(name: str, about: str, labels: list[str], samples: Iterable[tuple[list[str], Any]]) -> Metric:
    family = GaugeMetricFamily(name, about, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _plain(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(name, about, value=value)


def _counter(name: str, about: str, value: float) -> Metric:
    return CounterMetricFamily(name, about, value=value)
