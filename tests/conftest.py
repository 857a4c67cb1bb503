"""What many tests share: a private registry and bus, passports in one line, waiting for a condition."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from roster._clock import boottime

pytest_plugins = ["tests.engines"]

_numbers = itertools.count()

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("roster", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("roster")


@pytest.fixture(params=["memory", "embedded"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """Registry and bus of this test alone: in memory, then as files and sockets."""
    if request.param == "memory":
        name = f"test-{next(_numbers)}"
        return f"memory://{name}", f"memory://{name}"
    return f"sqlite:///{tmp_path}/registry.db", f"local://{tmp_path}/bus"


@pytest.fixture
def memory_urls() -> tuple[str, str]:
    """Registry and bus of this test alone, in memory."""
    name = f"test-{next(_numbers)}"
    return f"memory://{name}", f"memory://{name}"


@pytest.fixture
def file_urls(tmp_path: Path) -> tuple[str, str]:
    """Registry and bus of this test alone, as files and sockets that other processes can open."""
    return f"sqlite:///{tmp_path}/registry.db", f"local://{tmp_path}/bus"


@pytest.fixture
def private_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory of this test alone, and none of the environment's URLs."""
    for name in ("ROSTER_REGISTRY", "ROSTER_BUS", "ETCD_HOST", "ETCD_PORT", "RABBITMQ_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ROSTER_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def passport(
    name: str = "writer-001",
    *capabilities: dict[str, Any] | str,
    namespace: str = "default",
    at_once: int = 3,
    labels: dict[str, str] | None = None,
    version: str = "1.0.0",
) -> dict[str, Any]:
    """Return a passport's document; a capability may be given by its name alone."""
    return {
        "apiVersion": "ai-team.dev/v1",
        "kind": "NodePassport",
        "metadata": {"name": name, "namespace": namespace, "labels": labels or {}},
        "spec": {
            "type": "agent",
            "version": version,
            "capabilities": [{"name": one} if isinstance(one, str) else one for one in capabilities],
            "resources": {"max_concurrent_tasks": at_once},
        },
    }


async def eventually(condition: Callable[[], Any], deadline: float = 10.0) -> Any:
    """Wait until `condition()` is true and return it; fail after `deadline` seconds."""
    until = boottime() + deadline
    while not (value := condition()):
        assert boottime() < until, f"{condition} did not come true within {deadline} s"
        await asyncio.sleep(0.005)
    return value
