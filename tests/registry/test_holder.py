"""Whether the process that holds a name lives: proven, or not claimed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from roster.registry import Holder
from roster.registry.holder import this_process

PROGRAM = """
import json, sys
from roster.registry.holder import this_process
print(json.dumps(this_process().to_dict()), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other() -> Iterator[subprocess.Popen[str]]:
    """Another process, which ends when its input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        yield process
        process.kill()


def read(process: subprocess.Popen[str]) -> Holder:
    assert process.stdout is not None
    holder = Holder.from_dict(json.loads(process.stdout.readline()))
    assert holder is not None
    return holder


def test_a_running_process_is_alive_and_a_reaped_one_is_dead(other: subprocess.Popen[str]) -> None:
    holder = read(other)
    assert holder.pid == other.pid
    assert holder.liveness() == "alive"
    other.kill()
    other.wait()
    assert holder.liveness() == "dead"


def test_a_zombie_is_dead(other: subprocess.Popen[str]) -> None:
    holder = read(other)
    other.kill()
    assert other.stdout is not None
    assert other.stdout.read() == ""  # it has closed everything, and nobody has waited for it
    for _ in range(1000):
        if holder.liveness() == "dead":
            break
    assert holder.liveness() == "dead"
    assert other.returncode is None


def test_another_process_under_the_same_pid_is_not_the_holder() -> None:
    assert replace(this_process(), start=this_process().start - 1).liveness() == "dead"


def test_nothing_is_proven_across_boots_and_pid_namespaces() -> None:
    assert replace(this_process(), boot_id="another").liveness() == "unknown"
    assert replace(this_process(), pid_namespace="pid:[1]").liveness() == "unknown"


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        this_process().to_dict() | {"pid": "1"},
        this_process().to_dict() | {"pid": True},
        this_process().to_dict() | {"pid": -1},
        this_process().to_dict() | {"start": 2**70},
        this_process().to_dict() | {"host": "h" * 300},
        this_process().to_dict() | {"boot_id": None},
    ],
)
def test_what_is_no_holder_is_none(data: object) -> None:
    assert Holder.from_dict(data) is None


def test_a_holder_survives_its_own_json() -> None:
    assert Holder.from_dict(this_process().to_dict()) == this_process()
