"""The image is small, its user is nobody, and what it is made of is there and pinned."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from tests.deploy.composing import DOCKERFILE, ROOT, stages

IGNORE = ROOT / ".dockerignore"


def kept() -> list[str]:
    """What .dockerignore lets through; everything else is left out first."""
    lines = [line for line in IGNORE.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    return [line[1:] for line in lines if line.startswith("!")]


def copied() -> list[str]:
    """What the Dockerfile takes from the repository."""
    found = []
    for stage in stages().values():
        for word, rest in stage.steps:
            if word == "COPY" and not rest.startswith("--from="):
                found += rest.split()[:-1]
    return found


def test_it_is_made_in_two_stages_of_which_one_is_left() -> None:
    made = stages()
    assert list(made) == ["build", "roster", "agent", ""]
    assert made["roster"].base == made["build"].base
    assert made["agent"].base == made[""].base == "roster"
    taken = [rest for word, rest in made["roster"].steps if word == "COPY"]
    assert taken == ["--from=build /opt/roster /opt/roster"]
    assert re.search(r"^ARG PYTHON=3\.\d+$", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)


def test_it_runs_as_a_number_that_is_not_root() -> None:
    made = stages()
    for name in ("roster", "agent", ""):
        assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", made[name].user)
        after = [word for word, _ in made[name].steps]
        assert "RUN" not in after[after.index("USER") :] if "USER" in after else "RUN" not in after


def test_what_is_copied_exists_and_is_sent_to_the_builder() -> None:
    for name in copied():
        assert (ROOT / name).exists(), name
        assert any(name == one or name.startswith(f"{one}/") for one in kept()), name


def test_nothing_else_is_sent_to_the_builder() -> None:
    for name in kept():
        assert any(one == name or one.startswith(f"{name}/") for one in copied()), name
        known = subprocess.run(
            ["git", "ls-files", "--error-unmatch", name], cwd=ROOT, capture_output=True, check=False
        )
        assert known.returncode == 0, name


def test_everything_that_is_installed_has_a_hash() -> None:
    for word, rest in stages()["build"].steps:
        if word == "RUN" and "install" in rest and "wheel" not in rest:
            assert "--require-hashes" in rest, rest
    for name in ("image.txt", "build.txt"):
        text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
        pinned = re.findall(r"^[a-z0-9][a-z0-9._-]*==\S+.*\\$", text, re.MULTILINE)
        hashed = re.findall(r"\\\n    --hash=sha256:", text)
        assert pinned
        assert len(hashed) >= len(pinned)
        assert "://" not in re.sub(r"^#.*$", "", text, flags=re.MULTILINE)


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~ ;]", one)[0].lower() for one in requirements}


@pytest.fixture(scope="module")
def project() -> dict[str, list[str]]:
    """The extras by name, and the base as ``."""
    found = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {"": found["dependencies"], **found["optional-dependencies"]}


def test_it_holds_every_extra(project: dict[str, list[str]]) -> None:
    (every,) = project["all"]
    extras = re.findall(r"[a-z]+", every.partition("[")[2])
    wanted = names(project[""])
    while extras:
        extra = extras.pop()
        for one in project[extra]:
            if one.startswith("agent-roster["):
                extras += re.findall(r"[a-z]+", one.partition("[")[2])
            else:
                wanted |= names([one])
    text = (ROOT / "requirements" / "image.in").read_text(encoding="utf-8")
    given = [line for line in text.splitlines() if line and not line.startswith(("-r", "#"))]
    base = (ROOT / "requirements" / "run.in").read_text(encoding="utf-8").splitlines()
    assert names(given + base) == wanted
    lock = (ROOT / "requirements" / "image.txt").read_text(encoding="utf-8")
    assert {one.lower() for one in re.findall(r"^([A-Za-z0-9._-]+)==", lock, re.MULTILINE)} >= wanted


def test_the_page_says_what_it_is() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    made = stages()["roster"]
    version = re.search(r"^ARG PYTHON=(\S+)$", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert version is not None
    assert f"`python:{version[1]}-slim`" in page
    assert made.user in page
    assert f"`{made.environment['ROSTER_STATE_DIR']}`" in page
    assert Path(made.environment["ROSTER_STATE_DIR"]).is_absolute()
