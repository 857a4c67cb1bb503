"""deploy/gateway_tokens.py makes tokens that the gateway takes, and keeps them from others."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest
from tests.deploy.composing import DEPLOY

from roster.gateway.tokens import Tokens

SCRIPT = DEPLOY / "gateway_tokens.py"


def made(place: Path, *grants: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, "--secrets", place, *grants],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_the_gateway_takes_what_it_makes(tmp_path: Path) -> None:
    place = tmp_path / "secrets"
    done = made(
        place, "ops=operator", "prometheus=reader", "counter=node:ai-team/counter-001:count_words,translate_*"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    tokens = Tokens(place / "gateway-tokens.yaml")
    found = {}
    for name in ("ops", "prometheus", "counter"):
        principal = tokens.find((place / f"{name}.token").read_text().strip())
        assert principal is not None
        assert principal.name == name
        found[name] = principal
    assert (found["ops"].role, found["prometheus"].role) == ("operator", "reader")
    assert (found["counter"].role, found["counter"].node) == ("node", "ai-team/counter-001")
    assert found["counter"].capabilities == ("count_words", "translate_*")


def test_tokens_are_for_their_owner_and_digests_tell_nothing(tmp_path: Path) -> None:
    place = tmp_path / "secrets"
    made(place, "ops=operator")
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert stat.S_IMODE((place / "ops.token").stat().st_mode) == 0o600
    # Read by the container's user, who owns nothing here.
    assert stat.S_IMODE((place / "gateway-tokens.yaml").stat().st_mode) == 0o644
    assert (place / "ops.token").read_text().strip() not in (place / "gateway-tokens.yaml").read_text()


def test_made_again_tokens_stay_and_who_is_not_named_is_out(tmp_path: Path) -> None:
    made(tmp_path, "ops=operator", "old=reader")
    before, old = (tmp_path / "ops.token").read_text(), (tmp_path / "old.token").read_text()
    same = (tmp_path / "gateway-tokens.yaml").stat().st_ino
    made(tmp_path, "ops=operator")
    assert (tmp_path / "ops.token").read_text() == before
    # A file that is mounted into a container is known by its number.
    assert (tmp_path / "gateway-tokens.yaml").stat().st_ino == same
    tokens = Tokens(tmp_path / "gateway-tokens.yaml")
    assert tokens.find(before.strip()) is not None
    assert tokens.find(old.strip()) is None


@pytest.mark.parametrize(
    ("grants", "said"),
    [
        (["ops"], "write NAME=reader"),
        (["ops=root"], "write NAME=reader"),
        (["../ops=reader"], "write NAME=reader"),
        (["x=node:a:b"], "write NAME=reader"),
        (["ops=reader", "ops=operator"], "named more than once: ops"),
        ([], "required"),
    ],
)
def test_what_makes_no_sense_makes_nothing(grants: list[str], said: str, tmp_path: Path) -> None:
    done = made(tmp_path / "secrets", *grants)
    assert done.returncode != 0
    assert said in done.stderr
    assert not (tmp_path / "secrets").exists()


def test_a_short_token_of_ones_own_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ops.token").write_text("password\n")
    done = made(tmp_path, "ops=operator")
    assert done.returncode == 1
    assert "no token of at least 32 characters" in done.stderr
    assert "password" not in done.stderr
