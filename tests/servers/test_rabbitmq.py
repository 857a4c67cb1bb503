"""The brokers that tests are run against: several side by side, each with its own epmd, and nothing left behind."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from servers.rabbitmq import RabbitMQ, User

from roster._clock import boottime
from servers import ServerError


def processes(directory: Path) -> list[str]:
    """What runs for a broker: its directory stands in the command line, or in the environment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(directory).encode() in (entry / "environ").read_bytes():
                found.append((entry / "comm").read_text().strip())
        except OSError:
            continue  # it has ended, or is nobody's business here
    return found


def test_two_brokers_run_side_by_side_and_leave_nothing_behind(
    start_rabbitmq: Callable[..., RabbitMQ], tmp_path: Path
) -> None:
    first = start_rabbitmq(users={"agent": User("s3cret", read="^mine$")})
    second = start_rabbitmq()
    assert first.ports["amqp"] != second.ports["amqp"]
    assert "agent" in first.ctl("list_users")
    assert "^mine$" in first.ctl("list_user_permissions", "agent")
    assert "agent" not in second.ctl("list_users")
    with pytest.raises(ServerError, match="rabbitmqctl"):
        second.ctl("list_user_permissions", "agent")
    pid = first.pid
    first.kill()
    first.restart()
    assert first.pid != pid
    assert "agent" in first.ctl("list_users")
    for server in (first, second):
        assert processes(server.directory)
        server.close()
        until = boottime() + 10
        while processes(server.directory) and boottime() < until:
            time.sleep(0.01)  # its port programs end when they read that it is gone
        assert processes(server.directory) == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_memory_alarm_can_be_raised_and_ended(start_rabbitmq: Callable[..., RabbitMQ]) -> None:
    server = start_rabbitmq()
    server.alarm(on=True)
    assert "memory" in server.ctl("eval", "rabbit_alarm:get_alarms().")
    server.alarm(on=False)
    assert server.ctl("eval", "rabbit_alarm:get_alarms().").strip() == "[]"
