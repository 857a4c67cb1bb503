"""The stage of the fault tests: which registry and which bus, and clocks that lie.

Every test that takes `urls` asks a rule of whatever engines stand behind the two URLs; those that damage files take
`file_urls`, since the fault is the engine's own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.engines import not_here, own_bus

Urls = tuple[str, str]
Clock = Callable[[str], dict[str, str]]

_LIBRARIES = (
    "/usr/lib/*/faketime/libfaketimeMT.so.1",
    "/usr/lib*/faketime/libfaketimeMT.so.1",
    "/usr/local/lib/faketime/libfaketimeMT.so.1",
)
_BOTH_CLOCKS = "import time; print(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME))"


@pytest.fixture(params=["embedded", "amqp"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> Urls:
    """Registry and bus of this test alone, which other processes can open. One more engine is one more parameter."""
    bus = own_bus() if request.param == "amqp" else f"local://{tmp_path}/bus"
    return f"sqlite:///{tmp_path}/registry/registry.db", bus


@pytest.fixture
def file_urls(tmp_path: Path) -> Urls:
    """A registry file and a bus directory of this test alone, each in a directory of its own."""
    return f"sqlite:///{tmp_path}/registry/registry.db", f"local://{tmp_path}/bus"


@pytest.fixture
def clock() -> Clock:
    """A function from a file, which holds an offset such as `-40d`, to the variables that make a process's clock wrong.

    The offset may change while the process runs: its clock jumps. Only the wall clock lies; were CLOCK_BOOTTIME moved as
    well, the test would ask something that no machine does.
    """
    library = next((path for pattern in _LIBRARIES for path in sorted(Path("/").glob(pattern[1:]))), None)
    if library is None:
        not_here(
            "wrong clocks", "no libfaketime here: run scripts/setup-tests, or apt-get install libfaketime"
        )

    def variables(offsets: str) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": offsets,
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    return variables


@pytest.fixture
def wrong_clock(clock: Clock, tmp_path: Path) -> dict[str, str]:
    """The variables of a process whose wall clock is 40 days slow."""
    offsets = tmp_path / "slow"
    offsets.write_text("-40d\n")
    variables = clock(str(offsets))
    both = [sys.executable, "-c", _BOTH_CLOCKS]
    said = subprocess.run(both, env={**os.environ, **variables}, capture_output=True, text=True, check=True)
    true = subprocess.run(both, capture_output=True, text=True, check=True)
    (wall, boot), (true_wall, true_boot) = (map(float, each.stdout.split()) for each in (said, true))
    assert true_wall - wall > 30 * 86_400, "libfaketime does not move the clock"
    assert abs(true_boot - boot) < 60, (
        "this libfaketime moves CLOCK_BOOTTIME as well: version 0.9.10 or newer does not"
    )
    return variables
