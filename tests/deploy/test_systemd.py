"""The units are what systemd takes, let their processes do little, and name nothing that is not there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.deploy.composing import DEPLOY, ROOT
from tests.engines import not_here
from typer.main import get_command

from roster.cli.app import app
from roster.cli.doctor.environment import KNOWN

FOLDER = DEPLOY / "systemd"
UNITS = sorted(file.name for file in FOLDER.glob("*.service"))
INSTANCES = {"roster-agent@.service": "writer-001", "roster-register@.service": "nginx"}
OTHERS = {"ETCD_HOST", "ETCD_PORT", "RABBITMQ_HOST", "ROSTER_PASSPORT", "GATEWAY_LISTEN"}
EACH = pytest.mark.parametrize("unit", UNITS)


@pytest.fixture(scope="module")
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        not_here("systemd-analyze", "run scripts/setup-tests, or install the package systemd")
    return found


def verified(analyze: str, unit: str, text: str, place: Path) -> subprocess.CompletedProcess[str]:
    """Have systemd look at a unit whose programs are this machine's."""
    here = Path(sys.executable).parent
    text = text.replace("/opt/roster/bin/", f"{here}/").replace("/opt/roster-agents", str(place))
    instance = INSTANCES.get(unit)
    name = unit.replace("@.", f"@{instance}.") if instance else unit
    (place / name).write_text(text)
    (place / "nginx.service").write_text("[Service]\nExecStart=/bin/true\n")
    return subprocess.run(
        [analyze, "verify", "--man=no", str(place / name)],
        capture_output=True, text=True, timeout=60, check=False,
        env={"SYSTEMD_UNIT_PATH": f"{place}:", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip


@EACH
def test_it_is_what_systemd_takes(analyze: str, unit: str, tmp_path: Path) -> None:
    done = verified(analyze, unit, (FOLDER / unit).read_text(encoding="utf-8"), tmp_path)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_unit_that_is_wrong_is_noticed(analyze: str, tmp_path: Path) -> None:
    text = (FOLDER / "roster-gateway.service").read_text(encoding="utf-8")
    done = verified(analyze, "roster-gateway.service", text.replace("Restart=", "Restrat="), tmp_path)
    assert "Restrat" in done.stderr


@EACH
def test_it_lets_its_process_do_little(analyze: str, unit: str, tmp_path: Path) -> None:
    """3.0 of 10 is `OK` to systemd; a unit that says nothing has 9.6."""
    verified(analyze, unit, (FOLDER / unit).read_text(encoding="utf-8"), tmp_path)
    instance = INSTANCES.get(unit)
    file = tmp_path / (unit.replace("@.", f"@{instance}.") if instance else unit)
    done = subprocess.run(
        [analyze, "security", "--offline=true", "--threshold=30", "--no-pager", str(file)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def settings(unit: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (FOLDER / unit).read_text(encoding="utf-8").splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@EACH
def test_it_runs_what_the_command_knows(unit: str) -> None:
    (line,) = settings(unit)["ExecStart"]
    words = shlex.split(line)
    if words[0] == "/opt/roster/bin/python":
        assert words[1:] == ["-m", "${AGENT}"]
        return
    assert words[0] == "/opt/roster/bin/roster"
    words = [word.replace("${GATEWAY_LISTEN}", "127.0.0.1:8700") for word in words[1:] if word != "$CHECKS"]
    root: Any = get_command(app)
    with root.commands[words[0]].make_context(words[0], words[1:]):
        pass


@EACH
def test_its_variables_are_read_and_its_state_is_its_own(unit: str) -> None:
    found = settings(unit)
    given = dict(pair.split("=", 1) for line in found["Environment"] for pair in line.split())
    common = dict(
        line.split("=", 1)
        for line in (FOLDER / "roster.env").read_text(encoding="utf-8").splitlines()
        if line and line[0] != "#"
    )
    assert {*given, *common} <= KNOWN | OTHERS
    assert not [name for name in common if name.endswith("PASSWORD")]
    (state,) = found["StateDirectory"]
    assert given["ROSTER_STATE_DIR"] == f"%S/{state}"
    assert found["ProtectSystem"] == ["strict"]
    assert "ROSTER_BUS_PASSWORD" not in given
    for name, value in given.items():
        if name.endswith("_FILE"):
            assert value.startswith("%d/")
            assert any(one.startswith(f"{value[3:]}:") for one in found["LoadCredential"])


@EACH
def test_it_does_not_hide_processes(unit: str) -> None:
    """Whoever holds a name is known to be dead by its process being gone: one that is hidden would be taken for dead."""
    assert not {"ProtectProc", "ProcSubset", "PrivatePIDs"} & set(settings(unit))


def test_the_page_names_every_unit_and_installs_every_file() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    for unit in UNITS:
        assert f"`{unit.removesuffix('.service').replace('@', '@NAME')}`" in page
    installed = set(re.findall(r"deploy/systemd/([\w.@-]+)", page))
    assert {file.name for file in FOLDER.iterdir()} == installed
