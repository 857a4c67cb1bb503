"""Reads deploy/compose.yaml and the Dockerfile as far as the tests need them: variables filled in, stages, who runs what."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
DOCKERFILE = ROOT / "Dockerfile"
OURS = ("gateway", "orchestrator", "agent-writer-001", "agent-writer-002")

_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>[A-Z_]+):-(?P<default>[^}]*)\})")


def compose(environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the file as Compose reads it, with the variables of an environment."""
    given = environment or {}

    def fill(value: Any) -> Any:
        if isinstance(value, str):
            return _VARIABLE.sub(lambda m: given.get(m["name"] or "", "") or (m["default"] or ""), value)
        if isinstance(value, dict):
            return {name: fill(item) for name, item in value.items()}
        return [fill(item) for item in value] if isinstance(value, list) else value

    filled = fill(yaml.safe_load(COMPOSE.read_text(encoding="utf-8")))
    assert isinstance(filled, dict)
    return filled


def variables() -> set[str]:
    """Return the variables that the file reads."""
    text = COMPOSE.read_text(encoding="utf-8")
    found = {match["name"] for match in _VARIABLE.finditer(text) if match["name"]}
    assert text.count("${") == len([m for m in _VARIABLE.finditer(text) if m["name"]]), (
        "another form of ${...}"
    )
    return found


@dataclass
class Stage:
    """One stage of the Dockerfile, with what it inherits from stages before it."""

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    user: str = "0:0"
    directory: str = "/"

    def line(self, command: list[str] | None) -> list[str]:
        """Return what a container of it runs."""
        return [*self.entrypoint, *(self.command if command is None else command)]


def stages() -> dict[str, Stage]:
    """Return the stages by name; the last one, which a build makes without --target, has the name ``."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    text = re.sub(r"\\\n\s*", " ", text)
    found: dict[str, Stage] = {}
    current: Stage | None = None
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            parent = found.get(base)
            current = found[name] = Stage(name, base)
            if parent is not None:
                current.environment = dict(parent.environment)
                current.entrypoint, current.command = list(parent.entrypoint), list(parent.command)
                current.user, current.directory = parent.user, parent.directory
        elif word and current is not None:
            current.steps.append((word, rest))
            _apply(current, word, rest)
        else:
            assert word in ("", "ARG"), line
    return found


def _apply(stage: Stage, word: str, rest: str) -> None:
    if word == "ENV":
        for pair in shlex.split(rest):
            name, _, value = pair.partition("=")
            stage.environment[name] = value
    elif word == "WORKDIR":
        stage.directory = rest
    elif word == "USER":
        stage.user = rest
    elif word == "ENTRYPOINT":
        stage.entrypoint, stage.command = json.loads(rest), []
    elif word == "CMD":
        stage.command = json.loads(rest)
    else:
        assert word in ("RUN", "COPY", "LABEL"), word
