"""docs/deploy.md: its scripts are run, its other commands name what is there, its snippets are those of the files."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.composing import DEPLOY, ROOT, compose, stages
from tests.docs.markdown import Document
from typer.main import get_command

from roster.cli.app import app

PAGE = Document.read("docs/deploy.md")


def commands() -> list[str]:
    """Every command of the page, those in lists too."""
    text = re.sub(r"^ +(?=```|\$ )", "", PAGE.text, flags=re.MULTILINE)
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line[:2] in ("$ ", "# ")]


def by(*first: str) -> list[Any]:
    return [
        pytest.param(line, id=line[:60])
        for line in commands()
        if re.sub(r"^(?:[A-Z_]+=\S+ )+", "", line).startswith(first)
    ]


def test_every_command_is_looked_at() -> None:
    ours = ("docker ", "kubectl ", ".venv/bin/python deploy/", "curl ")
    roots = (
        "install ",
        "systemctl ",
        "systemd-sysusers",
        "python3 -m venv /opt/roster",
        "/opt/roster/bin/pip",
    )
    known = by(*ours, *roots)
    assert len(known) == len(commands()) > 20


@pytest.mark.parametrize("line", by(".venv/bin/python deploy/"))
def test_its_scripts_run_as_printed(line: str, tmp_path: Path) -> None:
    shutil.copytree(DEPLOY, tmp_path / "deploy", ignore=shutil.ignore_patterns("secrets", "__pycache__"))
    words = shlex.split(line)
    done = subprocess.run(
        [sys.executable, *words[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    made = {file.name for file in (tmp_path / "deploy" / "secrets").iterdir()}
    assert made >= {"gateway-tokens.yaml", "ops.token"} or made >= {"definitions.json", "ai-team.writer-001"}


@pytest.mark.parametrize("line", by("docker "))
def test_what_docker_is_told_is_there(line: str) -> None:
    words = shlex.split(line)
    given = dict(word.split("=", 1) for word in words[: words.index("docker")])
    words = words[words.index("docker") + 1 :]
    if words[0] == "build":
        if "--target" in words:
            assert words[words.index("--target") + 1] in stages()
        return
    assert words[:3] == ["compose", "-f", "deploy/compose.yaml"]
    services = compose(given)["services"]
    if "--profile" in words:
        profile = words[words.index("--profile") + 1]
        assert profile in services[profile]["profiles"]
        assert profile in given["ROSTER_COMPOSE_REGISTRY"]
    if "exec" in words:
        service, *inside = words[words.index("exec") + 1 :]
        assert service in services
        root: Any = get_command(app)
        assert inside[0] == "roster"
        with root.commands[inside[1]].make_context(inside[1], inside[2:]):
            pass
    else:
        assert {"up", "down"} & set(words)


@pytest.mark.parametrize("line", by("kubectl ", "install ", "/opt/roster/bin/pip"))
def test_the_files_that_others_are_told_are_there(line: str) -> None:
    for name in re.findall(r"(?<![\w/])(?:deploy|requirements)/[\w./@-]+", line):
        if not name.startswith("deploy/secrets/"):
            assert (ROOT / name).exists(), name


def test_the_compose_files_own_commands_are_those_of_the_page() -> None:
    head = (DEPLOY / "compose.yaml").read_text(encoding="utf-8").partition("\nname:")[0]
    shown = [line[4:].strip() for line in head.splitlines() if line.startswith("#   ")]
    printed = [line.replace(".venv/bin/python ", "") for line in commands()]
    for line in shown:
        if "--wait etcd" not in line:
            assert line in printed, line


def test_the_snippet_of_the_sidecar_is_that_of_the_manifest() -> None:
    (block,) = (block for block in PAGE.blocks if block.language == "yaml")
    (shown,) = yaml.safe_load(block.text)
    documents = yaml.safe_load_all((DEPLOY / "kubernetes" / "50-sidecar.yaml").read_text(encoding="utf-8"))
    (deployment,) = (one for one in documents if one["kind"] == "Deployment")
    (sidecar,) = (
        one for one in deployment["spec"]["template"]["spec"]["containers"] if one["name"] == shown["name"]
    )
    assert shown["image"] == sidecar["image"]
    assert [one for one in shown["args"] if one not in sidecar["args"]] == []


def test_what_it_says_of_alerts_and_defaults_is_so() -> None:
    alerts = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text(encoding="utf-8"))["groups"][0]
    (table,) = (table for table in PAGE.tables if table[0][0] == "severity")
    shown = {row[0]: re.findall(r"`(\w+)`", row[1]) for row in table[1:]}
    found: dict[str, list[str]] = {}
    for rule in alerts["rules"]:
        found.setdefault(rule["labels"]["severity"], []).append(rule["alert"])
    assert shown == found
    source = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    (table,) = (table for table in PAGE.tables if table[0] == ["variable", "default", "what it does"])
    for names, default, _ in table[1:]:
        for name, value in zip(
            re.findall(r"`(\w+)`", names), default.replace("`", "").split(", "), strict=True
        ):
            assert f"${{{name}:-{'' if value.startswith('(') else value}}}" in source, name


def test_the_flags_that_etcd_is_given_are_its_own() -> None:
    from servers.programs import ServerMissingError, programs
    from tests.engines import not_here

    try:
        program = programs("etcd")["etcd"]
    except ServerMissingError as error:
        not_here("etcd", str(error))
    said = subprocess.run(
        [program, "--help"], capture_output=True, text=True, timeout=30, check=False, env={**os.environ}
    )
    given = compose()["services"]["etcd"]["command"]
    assert given[0] == "etcd"
    for flag in given[1:]:
        assert flag.partition("=")[0] in said.stdout + said.stderr, flag
