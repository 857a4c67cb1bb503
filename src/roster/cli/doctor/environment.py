"""Examines the environment variables: those that contradict each other, that nobody reads, or that cannot be read."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

from roster._logs import FORMATS, LEVELS
from roster.bus.url import parse_url
from roster.cli.doctor.finding import Finding, fail, ok, warn
from roster.errors import ConfigError
from roster.registry.settings import DEFAULT_RETENTION, DEFAULT_TTL, seconds
from roster.store import store_url

AREA = "environment"
KNOWN = frozenset(
    {
        "ROSTER_BUS_PASSWORD_FILE", "ROSTER_REGISTRY_PASSWORD_FILE", "ROSTER_RUNS_PASSWORD", "ROSTER_RUNS_PASSWORD_FILE",
        "ROSTER_AMQP_RENEW", "ROSTER_ANSWERS_WINDOW", "ROSTER_BUS", "ROSTER_BUS_PASSWORD", "ROSTER_BUS_USER",
        "ROSTER_CARD_LIMITS", "ROSTER_DEBUG", "ROSTER_GATEWAY_TOKENS", "ROSTER_LOG", "ROSTER_LOG_FORMAT",
        "ROSTER_MIGRATE_FROM", "ROSTER_MIGRATE_TO", "ROSTER_NAMESPACE",
        "ROSTER_NODE_NAME", "ROSTER_NODE_NAMESPACE", "ROSTER_NODE_QUEUE", "ROSTER_NODE_UID",
        "ROSTER_REGISTRY", "ROSTER_REGISTRY_PASSWORD", "ROSTER_REGISTRY_USER", "ROSTER_RETENTION", "ROSTER_STATE_DIR",
        "ROSTER_RUNS", "ROSTER_RUNS_AT_ONCE", "ROSTER_RUNS_RETENTION", "ROSTER_RUN_RECOVERIES",
        "ROSTER_TLS_CA", "ROSTER_TLS_CERT", "ROSTER_TLS_KEY", "ROSTER_TTL",
    }
)  # fmt: skip
_OF_ONE_MACHINE = ("sqlite", "memory")


def contradictions(environment: Mapping[str, str], registry: str | None, bus: str | None) -> list[Finding]:
    """Return what is wrong with the variables; one good finding if nothing is.

    Args:
        environment: what is set; TTL and retention are read from the process's own.
        registry: the registry's URL as an option gave it.
        bus: the same of the bus.
    """
    found: list[Finding] = []

    def is_set(name: str) -> bool:
        return bool(environment.get(name))

    if is_set("ROSTER_REGISTRY") and is_set("ETCD_HOST") and not registry:
        found.append(
            warn(
                AREA,
                "ROSTER_REGISTRY and ETCD_HOST are both set: ROSTER_REGISTRY counts, ETCD_HOST does not",
                "unset one of them",
            )
        )
    if is_set("ROSTER_BUS") and is_set("RABBITMQ_HOST") and not bus:
        found.append(
            warn(
                AREA,
                "ROSTER_BUS and RABBITMQ_HOST are both set: ROSTER_BUS counts, RABBITMQ_HOST does not",
                "unset one of them",
            )
        )
    if is_set("ETCD_PORT") and not is_set("ETCD_HOST"):
        found.append(
            warn(AREA, "ETCD_PORT is set without ETCD_HOST: it does nothing", "set both, or neither")
        )
    for name in ("ROSTER_STATE_DIR", "XDG_STATE_HOME"):
        value = environment.get(name, "")
        if value and not Path(value).expanduser().is_absolute():
            effect = (
                "each working directory has a registry of its own"
                if name == "ROSTER_STATE_DIR"
                else "it is not used"
            )
            found.append(
                warn(AREA, f"{name} is a relative path ({value!r}): {effect}", "make it an absolute path")
            )
    found += _reach(registry, bus)
    found += _durations()
    for name, words in (("ROSTER_LOG", tuple(LEVELS)), ("ROSTER_LOG_FORMAT", FORMATS)):
        if is_set(name) and environment[name].strip().lower() not in words:
            found.append(
                fail(AREA, f"{name} is {environment[name][:40]!r}", f"set it to one of {', '.join(words)}")
            )
    for name in sorted(environment):
        if name.startswith("ROSTER_") and name not in KNOWN:
            near = difflib.get_close_matches(name, KNOWN, 1)
            hint = f"did you mean {near[0]}?" if near else "remove it"
            found.append(warn(AREA, f"nothing reads {name[:80]}", hint))
    return found or [ok(AREA, "no variable contradicts another")]


def _reach(registry: str | None, bus: str | None) -> list[Finding]:
    """Return whether registry and bus reach equally far."""
    try:
        store, where = store_url(registry), parse_url(bus)
    except ConfigError:
        return []  # told where it is opened
    if (store.scheme == "memory") != (where.scheme == "memory"):
        return [
            warn(
                AREA,
                f"the registry is {store.scheme}:// and the bus {where.scheme}://: one is seen by this process alone, the "
                "other is not",
                "use memory:// for both, or for neither",
            )
        ]
    if store.scheme not in _OF_ONE_MACHINE and where.scheme == "local":
        return [
            warn(
                AREA,
                f"the registry ({store.scheme}://) is shared between machines, the bus (local://) is not: nodes of other "
                "machines are found and cannot be reached",
                "set ROSTER_BUS to a bus that all machines share",
            )
        ]
    return []


def _durations() -> list[Finding]:
    try:
        ttl = seconds(None, "ROSTER_TTL", DEFAULT_TTL)
        retention = seconds(None, "ROSTER_RETENTION", DEFAULT_RETENTION)
    except ConfigError as error:
        return [fail(AREA, str(error), "correct it, or unset it: no node can register with it")]
    if retention < ttl:
        return [
            warn(
                AREA,
                f"ROSTER_RETENTION ({retention:g} s) is shorter than ROSTER_TTL ({ttl:g} s): nodes that die are gone "
                "before anybody sees them offline",
                "make the retention longer",
            )
        ]
    return []
