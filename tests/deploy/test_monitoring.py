"""The alerts fire where they should, the dashboard's questions can be asked, and both know only metrics that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.composing import DEPLOY, ROOT
from tests.engines import not_here

RULES = DEPLOY / "prometheus" / "alerts.yaml"
CONFIG = DEPLOY / "prometheus" / "prometheus.yml"
BOARD = DEPLOY / "grafana" / "roster.json"
TESTS = Path(__file__).parent / "alerts_test.yaml"
# Grafana fills these in; Prometheus would not know them.
_VARIABLES = {"$__rate_interval": "5m", "$job": "roster", "$capability": ".*"}
_METRIC = re.compile(r"\broster_[a-z_]+")


@pytest.fixture(scope="module")
def promtool() -> str:
    """The program: the system's, else what scripts/setup-tests has unpacked."""
    found = shutil.which("promtool") or shutil.which("promtool", path=str(ROOT / ".servers" / "promtool"))
    if found is None:
        not_here("promtool", "run scripts/setup-tests, or install Debian's package prometheus")
    return found


def ran(*command: str | Path) -> str:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def board() -> dict[str, Any]:
    found = json.loads(BOARD.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def expressions() -> Iterator[str]:
    """Every question of the dashboard, with Grafana's variables filled in."""
    whole = board()
    asked = [target["expr"] for panel in whole["panels"] for target in panel.get("targets", [])]
    asked += [note["expr"] for note in whole["annotations"]["list"]]
    for text in asked:
        for name, value in _VARIABLES.items():
            text = text.replace(name, value)
        assert "$" not in text, text
        yield text


def known() -> set[str]:
    """The metrics that docs/gateway.md names, with what a histogram is made of."""
    page = (ROOT / "docs" / "gateway.md").read_text(encoding="utf-8")
    found = set()
    for row in re.findall(r"^\| (`roster_.*?) \|(?:.*?)\|(.*?)\|$", page, re.MULTILINE):
        for name in _METRIC.findall(row[0]):
            found.add(name)
            if "histogram" in row[1]:
                found |= {f"{name}_bucket", f"{name}_sum", f"{name}_count"}
    assert len(found) > 20
    return found


def test_the_rules_are_rules(promtool: str) -> None:
    assert "SUCCESS" in ran(promtool, "check", "rules", RULES)
    ran(promtool, "check", "config", "--syntax-only", CONFIG)


def test_every_alert_fires_where_it_should_and_not_where_it_should_not(promtool: str) -> None:
    assert "SUCCESS" in ran(promtool, "test", "rules", TESTS)


def test_every_alert_is_tried_both_ways() -> None:
    tried = [test["name"] for test in yaml.safe_load(TESTS.read_text(encoding="utf-8"))["tests"]]
    for alert in alerts():
        assert f"{alert['alert']} fires" in tried
        assert f"{alert['alert']} stays calm" in tried


def test_a_rule_that_is_broken_is_noticed(promtool: str, tmp_path: Path) -> None:
    """The tests of the rules can fail: with other bounds they do."""
    text = RULES.read_text(encoding="utf-8")
    (tmp_path / "alerts.yaml").write_text(
        text.replace("roster_ejected_nodes > 0", "roster_ejected_nodes > 5")
    )
    moved = TESTS.read_text(encoding="utf-8").replace("../../deploy/prometheus/alerts.yaml", "alerts.yaml")
    (tmp_path / "test.yaml").write_text(moved)
    done = subprocess.run(
        [promtool, "test", "rules", str(tmp_path / "test.yaml")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "RosterNodesEjected" in done.stdout + done.stderr


def test_every_question_of_the_dashboard_can_be_asked(promtool: str, tmp_path: Path) -> None:
    asked = list(expressions())
    assert len(asked) > 30
    rules = [{"record": f"asked:{number}", "expr": text} for number, text in enumerate(asked)]
    (tmp_path / "asked.yaml").write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}))
    assert f"{len(asked)} rules found" in ran(promtool, "check", "rules", tmp_path / "asked.yaml")


def test_every_metric_is_one_of_the_gateways() -> None:
    named = set()
    for text in [*expressions(), *(str(alert["expr"]) for alert in alerts())]:
        named |= set(_METRIC.findall(text))
    for variable in board()["templating"]["list"]:
        named |= set(_METRIC.findall(str(variable.get("definition", ""))))
    assert len(named) > 20
    assert named <= known(), named - known()


def test_every_metric_of_the_gateway_is_shown_or_watched() -> None:
    text = BOARD.read_text(encoding="utf-8") + RULES.read_text(encoding="utf-8")
    shown = set(_METRIC.findall(text))
    assert {name for name in known() if not name.endswith(("_bucket", "_sum", "_count"))} <= shown | {
        name.removesuffix("_bucket") for name in shown
    }


def test_every_alert_says_what_it_is_and_what_to_do() -> None:
    for alert in alerts():
        assert alert["labels"]["severity"] in ("critical", "warning", "info")
        assert alert["annotations"]["summary"]
        assert alert["annotations"]["description"]
    assert [name for name, count in Counter(one["alert"] for one in alerts()).items() if count > 1] == []


def test_the_commands_that_alerts_name_are_there() -> None:
    from typer.main import get_command

    from roster.cli.app import app

    commands = get_command(app).commands  # type: ignore[attr-defined]  # it is a group
    named = re.findall(r"`roster ([a-z]+)", RULES.read_text(encoding="utf-8"))
    assert {"doctor", "explain"} <= set(named) <= set(commands)


def test_no_panel_lies_over_another() -> None:
    taken: set[tuple[int, int]] = set()
    ids = []
    for panel in board()["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
        ids.append(panel["id"])
        if panel["type"] != "row":
            assert panel["targets"]
            assert panel["datasource"]["uid"] == "${datasource}"
    assert len(set(ids)) == len(ids)


def test_the_job_is_called_the_same_everywhere() -> None:
    jobs = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["scrape_configs"]
    assert [job["job_name"] for job in jobs] == ["roster"]
    assert 'up{job="roster"}' in RULES.read_text(encoding="utf-8")
    assert yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["rule_files"] == [RULES.name]
