"""The frame of the benchmarks: what it prints, and what it exits with."""

import json
import subprocess
import sys

import pytest
from bench.__main__ import main, number, table

from bench import Row


def test_a_row_of_several_runs_shows_median_smallest_and_largest() -> None:
    row = Row.measured("pick", [3.0, 1.0, 2.0], "us", goal="<= 3")
    assert (row.value, row.low, row.high, row.runs) == (2.0, 1.0, 3.0, 3)
    assert table([row]).splitlines()[1].split() == ["pick", "2", "us", "1..3", "of", "3", "<=", "3", "met"]


@pytest.mark.parametrize(
    ("value", "goal", "verdict"),
    [
        (3.0, "<= 3", "met"),
        (3.1, "<= 3", "MISSED"),
        (10_000.0, ">= 10 000", "met"),
        (9_999.0, ">= 10 000", "MISSED"),
        (1.0, "as flat as can be", ""),
        (1.0, "<= a little", ""),
        ("many", "<= 3", ""),
        (1.0, None, ""),
    ],
)
def test_a_goal_that_is_a_bound_is_judged(value: float | str, goal: str | None, verdict: str) -> None:
    assert Row("x", value, goal=goal).verdict() == verdict


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.35123, "0.351"), (2.54, "2.54"), (99.96, "100"), (1234567.8, "1 234 568"), ("n/a", "n/a")],
)
def test_figures_have_three_digits_and_thousands_apart(value: float | str, shown: str) -> None:
    assert number(value) == shown


def test_columns_are_aligned() -> None:
    lines = table([Row("a", 1.0, "us", note="here"), Row("longer", 1000.0, "ms", note="there")]).splitlines()
    assert lines[1].index("us") == lines[2].index("ms")
    assert lines[1].index("here") == lines[2].index("there")


def test_an_unknown_name_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["speed"])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "no benchmark speed" in error
    assert "routing" in error


def test_a_benchmark_runs_from_the_command_line_as_json() -> None:
    code = (
        "import bench.routing as routing\n"
        "routing.SIZES, routing.PICKS, routing.FOUNDING_RUNS = (10, 20), 200, {10: 1}\n"
        "from bench.__main__ import main\n"
        "raise SystemExit(main(['routing', '--json', '--runs', '2']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert {"cores", "Python", "OS"} <= set(printed["machine"])
    rows = {row["what"]: row for row in printed["results"]["routing"]}
    assert rows["pick + sent, 10 nodes"]["runs"] == 2
    assert rows["founding document's lookup, 10 nodes"]["note"] == ""
    assert "EXTRAPOLATED" in rows["founding document's lookup, 20 nodes"]["note"]
    assert "pick among 10 nodes" in done.stderr


def test_a_benchmark_that_breaks_is_told_and_does_not_hide_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import bench.routing

    def broken() -> list[Row]:
        raise OSError("no disk")

    monkeypatch.setattr(bench.routing, "run", broken)
    assert main(["routing"]) == 1
    assert "benchmark routing broke" in capsys.readouterr().err
    monkeypatch.setattr(bench.routing, "run", lambda: [("what", "7 us"), ("more", "8 us", "<= 9 us")])
    assert main(["routing"]) == 0
    assert "7 us" in capsys.readouterr().out
