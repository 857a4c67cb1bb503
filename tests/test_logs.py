"""The log is quiet until it is asked for, one safe line a record, and never in the way of the application's own."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cli.conftest import roster
from tests.conftest import passport
from tests.test_text import _dangerous

from roster import _logs
from roster._logs import JsonFormatter, TextFormatter
from roster.errors import ConfigError
from roster.store import open_store

HOSTILE = "evil\x1b[2J\r\n\u202egnp\x9b"


def record(
    message: str = "%s registered", *args: object, level: int = logging.INFO, **extra: Any
) -> logging.LogRecord:
    made = logging.LogRecord("roster.registry", level, __file__, 1, message, args or ("default/a",), None)
    vars(made).update(extra)
    made.created = 1_767_225_600.25
    return made


# -- one line a record ---------------------------------------------------------------------------------------------


def test_json_is_one_object_with_the_fields_that_the_call_gave() -> None:
    line = JsonFormatter().format(record(node="default/a", uid="u1"))

    assert json.loads(line) == {
        "time": "2026-01-01T00:00:00.250Z",
        "level": "info",
        "logger": "roster.registry",
        "message": "default/a registered",
        "node": "default/a",
        "uid": "u1",
    }


def test_text_is_one_line_with_time_level_and_logger() -> None:
    assert TextFormatter().format(record()) == (
        "2026-01-01T00:00:00.250Z info    roster.registry: default/a registered"
    )
    assert TextFormatter(terse=True).format(record(level=logging.WARNING)) == "warning: default/a registered"


@pytest.mark.parametrize("formatter", [TextFormatter(), TextFormatter(terse=True), JsonFormatter()])
@given(text=st.text(st.characters(codec=None, exclude_categories=()), max_size=40))
def test_whatever_strangers_wrote_stays_one_line_that_obeys_nobody(
    formatter: logging.Formatter, text: str
) -> None:
    line = formatter.format(record("%s and %s", text, HOSTILE, node=text, key=HOSTILE))

    assert _dangerous(line) == []
    if isinstance(formatter, JsonFormatter):
        assert json.loads(line)["message"] == f"{text} and {HOSTILE}"
        assert json.loads(line)["node"] == text


def test_an_extra_cannot_take_the_place_of_a_field_and_odd_values_are_told_as_text() -> None:
    said = json.loads(
        JsonFormatter().format(record(time="never", load=float("nan"), error=ValueError("x"), n=2))
    )

    assert (said["time"], said["level"]) == ("2026-01-01T00:00:00.250Z", "info")
    assert (said["load"], said["error"], said["n"]) == ("nan", "x", 2)


def test_an_exception_is_shown_in_lines_of_its_own_or_in_a_field() -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        made = record(level=logging.ERROR)
        made.exc_info = sys.exc_info()

    lines = TextFormatter().format(made).split("\n")
    assert lines[1] == "Traceback (most recent call last):"
    assert all(_dangerous(line) == [] for line in lines)
    assert "Traceback" not in TextFormatter(tracebacks=False).format(made)
    said = json.loads(JsonFormatter().format(made))
    assert said["error"] == "ValueError"
    assert HOSTILE in said["traceback"]


def test_a_message_has_an_end() -> None:
    assert len(TextFormatter().format(record("%s", "x" * 100_000))) < 9000
    assert len(JsonFormatter().format(record("%s", "x" * 100_000, node="y" * 100_000))) < 18_000


@pytest.mark.parametrize(
    ("level", "name"),
    [(10, "debug"), (5, "debug"), (20, "info"), (30, "warning"), (40, "error"), (50, "error")],
)
def test_levels_have_four_names(level: int, name: str) -> None:
    assert _logs.level_name(level) == name


# -- quiet by default ----------------------------------------------------------------------------------------------

AGENT = """
import asyncio, logging, sys
{before}
from roster import Node
node = Node({passport!r}, registry_url="memory://log", bus_url="memory://log")
@node.capability("x")
async def x() -> dict: ...
@node.check("x")
async def model() -> bool:
    asyncio.get_running_loop().call_later(0.01, node.shutdown)
    return False
node.run()
"""


def run_agent(before: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ROSTER_")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", AGENT.format(before=before, passport=passport("agent", "x"))],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**environment, **variables},
    )


def test_an_agent_says_nothing_by_itself_not_even_warnings() -> None:
    done = run_agent()

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_agent_logs_json_when_it_is_told_to_one_line_a_change_of_state() -> None:
    done = run_agent(ROSTER_LOG_FORMAT="json")

    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 0
    messages = [line["message"] for line in lines]
    assert messages[0].startswith("default/agent registered, uid ")
    assert any("x is withdrawn" in message for message in messages)
    assert messages[-1] == "default/agent has left"
    assert len(messages) == len(set(messages))
    assert all(line["node"] == "default/agent" for line in lines)
    (withdrawn,) = [line for line in lines if "is withdrawn" in line["message"]]
    assert (withdrawn["level"], withdrawn["capability"]) == ("warning", "x")
    assert withdrawn["logger"] == "roster.node"


def test_an_agent_logs_text_from_the_level_that_it_is_told() -> None:
    done = run_agent(ROSTER_LOG="warning")

    assert len(done.stderr.splitlines()) == 1
    assert "Z warning roster.node: default/agent: x is withdrawn" in done.stderr
    assert run_agent(ROSTER_LOG="off").stderr == ""


@pytest.mark.parametrize(
    "before",
    [
        "logging.basicConfig(level='INFO', format='mine %(message)s')",
        "handler = logging.StreamHandler(); handler.setFormatter(logging.Formatter('mine %(message)s'));"
        "log = logging.getLogger('roster'); log.addHandler(handler); log.setLevel('INFO')",
    ],
)
def test_an_application_that_has_set_up_logging_is_left_alone(before: str) -> None:
    done = run_agent(before, ROSTER_LOG="debug", ROSTER_LOG_FORMAT="json")

    assert done.stderr
    assert all(line.startswith("mine ") for line in done.stderr.splitlines())


@pytest.mark.parametrize("variable", ["ROSTER_LOG", "ROSTER_LOG_FORMAT"])
def test_a_word_that_is_no_level_and_no_format_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "loud\x1b")
    with pytest.raises(ConfigError, match=f"^{variable} is .*it is 'loud"):
        _logs.log_as_the_environment_says()
    result = roster("get", "nodes", "--registry", "memory://x")
    assert result.status == 1
    assert result.err.startswith(f"error: {variable} is ")


# -- the command line ----------------------------------------------------------------------------------------------


@pytest.fixture
def quarantined(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A registry with a document that cannot be read, which is worth a warning."""
    from roster._loops import LoopThread

    monkeypatch.setenv("ROSTER_REGISTRY", "memory://quarantine")
    for name in ("ROSTER_LOG", "ROSTER_LOG_FORMAT", "ROSTER_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    thread = LoopThread("log").start()
    store = open_store("memory://quarantine")
    thread.run(store.put("/ai-team/nodes/default/bad", b"{"), timeout=5)
    yield
    thread.run(store.close(), timeout=5)
    thread.stop()


@pytest.mark.parametrize(
    ("options", "variables", "shown"),
    [
        ((), {}, True),
        (("-v",), {}, True),
        ((), {"ROSTER_LOG": "error"}, False),
        (("-v",), {"ROSTER_LOG": "off"}, True),
    ],
)
def test_warnings_are_shown_unless_rosters_log_is_set_higher(
    quarantined: None,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    variables: dict[str, str],
    shown: bool,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert ("warning: quarantined" in roster("get", "nodes", *options).err) is shown


@pytest.mark.parametrize("how", ["option", "variable"])
def test_all_of_stderr_is_json_when_it_is_asked_for(
    quarantined: None, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "variable":
        monkeypatch.setenv("ROSTER_LOG_FORMAT", "json")
    args = ("--log-format", "json") if how == "option" else ()

    result = roster("get", "node", "bad", *args)

    lines = [json.loads(line) for line in result.err.splitlines()]
    assert [(line["level"], line["logger"]) for line in lines] == [
        ("warning", "roster.registry"),
        ("error", "roster.cli"),
    ]
    assert lines[0]["key"] == "/ai-team/nodes/default/bad"
    assert result.status == 5
    if how == "option":
        assert roster("get", "node", "bad", "--log-format", "text").err.startswith("warning: ")


def test_the_command_line_leaves_the_logger_as_it_found_it(quarantined: None) -> None:
    logger = logging.getLogger("roster")
    before = (list(logger.handlers), logger.level, logger.propagate)
    roster("get", "nodes", "-vv", "--log-format", "json")
    assert (list(logger.handlers), logger.level, logger.propagate) == before


def test_register_logs_json_and_hands_the_wish_on_to_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ROSTER_LOG", "ROSTER_LOG_FORMAT"):
        monkeypatch.delenv(name, raising=False)
    document = json.dumps(passport("agent", "x")).encode()
    command = 'echo "$ROSTER_LOG_FORMAT $ROSTER_LOG"'
    done = subprocess.run(
        [sys.executable, "-m", "roster", "register", "-f", "-", "-v", "--log-format", "json", "--registry", "memory://r",
         "--", "sh", "-c", command],
        input=document, capture_output=True, timeout=30, check=False,
    )  # fmt: skip

    assert done.stdout == b"json info\n"
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["message"].split(",")[0] for line in lines] == [
        "default/agent registered",
        "default/agent deregistered",
    ]
    assert {line["node"] for line in lines} == {"default/agent"}


# -- what it costs, what it never says -----------------------------------------------------------------------------


def test_importing_the_package_costs_no_logging() -> None:
    code = "import sys, roster; print('logging' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "False\n"
    )


def test_no_url_with_a_password_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("roster")
    monkeypatch.setattr(logger, "handlers", [*logger.handlers, handler])
    monkeypatch.setattr(logger, "level", logging.DEBUG)

    result = roster("get", "nodes", "-vv", "--debug", "--registry", "etcd://me:hunter2@localhost")

    assert result.status != 0
    assert "hunter2" not in result.err + result.out + stream.getvalue()
