"""The command starts fast, helps, and says in one line what was wrong."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator

import aiormq
import pytest
from tests.cli.conftest import Result, roster, writer

from roster import __version__
from roster._loops import LoopThread
from roster.cli import main
from roster.cli.session import Session

_COMMANDS = (
    "validate", "schema", "register", "get", "describe", "find", "explain", "call", "orchestrate", "pause", "resume",
    "drain", "undrain", "delete", "prune", "wait", "watch", "tap", "migrate", "export", "import", "gateway", "doctor",
    "demo", "completion", "run", "control", "dead", "card",
)  # fmt: skip

_SUBCOMMANDS = (
    "control pause", "control resume", "control stop", "dead list", "dead show", "dead retry", "dead drop",
    "card validate", "card graph", "card test", "run approve", "run reject", "run skip", "run signal", "run pause",
    "run resume", "run cancel", "run prune",
)  # fmt: skip


def _modules_after(*args: str) -> set[str]:
    code = (
        "import sys; from roster.cli import main; status = main(sys.argv[1:]);"
        "sys.stderr.write(' '.join(sys.modules)); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, check=True, timeout=30
    )
    return set(done.stderr.split())


def test_the_version_costs_no_imports() -> None:
    assert _modules_after("--version") & {"typer", "pydantic", "rich", "asyncio", "roster.errors"} == set()


@pytest.mark.parametrize("args", [["--help"], ["get", "--help"]])
def test_help_costs_neither_registry_nor_renderer(args: list[str]) -> None:
    heavy = {
        "rich",
        "yaml",
        "jsonschema_rs",
        "roster.registry",
        "roster.passport",
        "roster.store",
        "roster.bus",
    }
    assert _modules_after(*args) & heavy == set()


@pytest.mark.parametrize("args", [["--version"], ["-V"], ["--no-color", "--version"]])
def test_the_version_is_printed(args: list[str]) -> None:
    assert roster(*args) == Result(0, f"roster {__version__}\n", "")


def test_python_m_roster_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "roster", "-V"], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == f"roster {__version__}\n"


def test_without_arguments_there_is_help() -> None:
    assert roster() == roster("--help")
    assert roster().status == 0


def test_help_lists_every_command_and_the_exit_status() -> None:
    text = roster("--help").out

    assert [line.split()[0] for line in text.split("Commands:\n")[1].split("\n\n")[0].splitlines()] == list(
        _COMMANDS
    )
    assert "5    no such node" in text
    assert "130  interrupted" in text
    # No command's line is cut off.
    assert "..." not in text.split("Commands:\n")[1]


@pytest.mark.parametrize("command", [*_COMMANDS, *_SUBCOMMANDS])
def test_help_of_each_command_has_examples_and_the_shared_options(command: str) -> None:
    text = roster(*command.split(), "--help").out

    assert f"  roster {command}" in text.split("Examples:\n")[1]
    for option in ("--registry", "--bus", "--verbose", "--no-color", "--debug"):
        assert option in text


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["nope"], "No such command 'nope'"),
        (["get"], "Missing argument"),
        (
            ["get", "pods"],
            "there is no kind 'pods': name nodes, capabilities or runs; see 'roster get --help'",
        ),
        (["get", "nodes", "--nope"], "No such option"),
        (["get", "nodes", "-o", "xml"], "'xml' is not one of"),
        (["get", "nodes", "-A", "-n", "x"], "-A and -n contradict each other"),
        (["get", "capabilities", "--watch"], "--watch and --sort-by are for nodes"),
        (["get", "nodes", "--watch", "--sort-by", "age"], "leave out --watch or --sort-by"),
        (["get", "node", "a", "-l", "x=y"], "-l and NAME contradict each other"),
        (["get", "node/"], "a name is empty"),
        (["describe", "node"], "name what to describe"),
        (["delete", "node"], "name what to delete"),
        (["delete", "capability", "x"], "a capability goes with the nodes"),
        (["delete", "run", "x"], "'roster run cancel ID'"),
        (["get", "runs", "-A", "-l", "x=y"], "-l, -A: not for runs"),
        (["get", "runs", "--state", "done"], "there are pending, running"),
        (["get", "run", "x", "--limit", "3"], "--limit: not for lists of runs"),
        (["get", "nodes", "--card", "x"], "--card: not for nodes"),
        (["run"], "Missing argument 'CARD'; see 'roster run --help'"),
        (["run", "x.yaml", "--nope"], "No such option"),
        (["run", "x.yaml", "--detach", "--mock", "m.yaml"], "--detach and --mock contradict each other"),
        (["run", "x.yaml", "-i", "topic"], "-i 'topic': write NAME=TEXT, or NAME:=JSON"),
        (["run", "-", "--inputs", "-"], "either the card or the inputs"),
        (["run", "cancel"], "Missing argument"),
        (["run", "--registry", "memory://x", "approve"], "Missing argument"),
        (["run", "prune", "--older-than", "soon"], "30s, 5m, 1h30m"),
        (["run", "signal", "x", "y", "-d", "words"], "-d 'words': write NAME=TEXT"),
        (["pause", "article"], "name card/NAME or run/ID"),
        (["drain", "a/x", "-n", "b"], "names another namespace"),
        (["control"], "Missing command; see 'roster control --help'"),
        (["control", "nope"], "No such command 'nope'; see 'roster control --help'"),
        (["control", "pause"], "say which nodes: names, -l SELECTOR or --all"),
        (["control", "pause", "a", "--all"], "only one of them"),
        (["control", "stop", "a", "-l", "x=y"], "only one of them"),
        (["control", "stop", "a", "-A"], "-A and NAME contradict each other"),
        (["control", "stop", "--all", "--timeout", "soon"], "30s, 5m, 1h30m"),
        (["tap", "--count", "0"], "--count"),
        (["dead", "drop"], "say which: IDs, or --all"),
        (["dead", "drop", "x", "--all"], "say which: IDs, or --all"),
        (["dead", "show"], "Missing argument"),
        (["call", "x", "--timeout", "soon"], "30s, 5m, 1h30m"),
        (["call", "x", "--priority", "12"], "9"),
        (["call", "x", "--strategy", "sticky"], "--sticky-key KEY go together"),
        (["register"], "Missing option '-f'"),
        (["completion", "tcsh"], "'tcsh' is not one of"),
    ],
)
def test_wrong_usage_is_told_in_one_line(team: object, args: list[str], reason: str) -> None:
    result = roster(*args)

    assert result.status == 2
    assert result.out == ""
    assert reason in result.err
    assert result.err.count("\n") == 1
    assert result.err.startswith("error: ")


def test_debug_shows_the_traceback(team: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Traceback" not in roster("get", "node", "nobody").err
    assert "Traceback" in roster("get", "node", "nobody", "--debug").err
    assert "Traceback" in roster("--debug", "get", "node", "nobody").err
    monkeypatch.setenv("ROSTER_DEBUG", "1")
    assert "Traceback" in roster("get", "node", "nobody").err


def test_shared_options_behind_the_command_count_over_those_before_it(team: tuple[str, str]) -> None:
    assert roster("--registry", team[0], "get", "nodes", "-A").rows != []
    assert roster("--registry", "nonsense://", "get", "nodes", "-A", "--registry", team[0]).rows != []
    assert roster("get", "nodes", "--registry", "nonsense://").status == 1


def test_an_unexpected_exception_is_a_defect_with_a_status_of_its_own(
    team: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oh\x1b[0m")

    monkeypatch.setattr("roster.cli.session.Session.registry", broken)
    result = roster("get", "nodes")

    assert result.status == 70
    assert result.err == (
        "error: unexpected ZeroDivisionError: oh\\x1b[0m; this is a defect in Roster: report what --debug shows\n"
    )


def test_a_password_in_a_url_is_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    for args in (["--registry", "etcd://me:s3cr3t@db:2379/?nope=1"], ["--bus", "amqp://me:s3cr3t@mq"], []):
        monkeypatch.setenv("ROSTER_REGISTRY", "etcd://me:s3cr3t@nowhere:1/x" if not args else "memory://")
        for command in (["get", "nodes", "--debug"], ["call", "x", "--debug"]):
            result = roster(*command, *args)
            assert "s3cr3t" not in result.out + result.err
            assert result.status in (0, 1, 7)


def test_an_unreadable_store_is_told_with_its_own_status(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROSTER_REGISTRY", f"sqlite://{tmp_path}/registry.db")
    with open(f"{tmp_path}/registry.db", "wb") as file:
        file.write(b"this is no database" * 100)

    result = roster("get", "nodes")

    assert result.status == 3
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1


def test_a_reader_that_goes_away_ends_it_quietly(tmp_path: object) -> None:
    environment = {**os.environ, "ROSTER_REGISTRY": "memory://"}
    process = subprocess.Popen(
        [sys.executable, "-m", "roster", "schema"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait(30) == 141


def test_main_takes_the_programs_own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["roster", "--version"])
    assert main() == 0


# -- on a terminal ----------------------------------------------------------------------------------------------------


def _on_a_terminal(urls: tuple[str, str], *args: str, columns: int = 200, **environment: str) -> str:
    """Run a command on a terminal of so many columns; return what it shows."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        kept = {
            key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "LINES")
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "roster", *args],
            stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
            env={**kept, "TERM": "xterm", "ROSTER_REGISTRY": urls[0], "ROSTER_BUS": urls[1], **environment},
        )  # fmt: skip
        os.close(theirs)
        shown = b""
        try:
            while block := screen.read(4096):
                shown += block
        except OSError as error:
            if error.errno != errno.EIO:  # how Linux says that nobody has the other side any more
                raise
        process.wait(20)
    return shown.decode()


@pytest.fixture
def node(file_urls: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """One registered node, in files."""
    thread = LoopThread("node").start()
    made = writer(
        "writer-001", registry_url=file_urls[0], bus_url=file_urls[1], document={"labels": {"a": "b" * 60}}
    )
    thread.run(made.start(), timeout=10)
    yield file_urls
    thread.run(made.stop(), timeout=10)
    thread.stop()


def test_colours_are_for_terminals_that_want_them(node: tuple[str, str]) -> None:
    assert "\x1b[32mready\x1b[0m" in _on_a_terminal(node, "get", "nodes", "-A")
    assert "\x1b[31merror:\x1b[0m" in _on_a_terminal(node, "get", "node", "nobody")
    assert "\x1b" not in _on_a_terminal(node, "get", "nodes", "-A", "--no-color")
    assert "\x1b" not in _on_a_terminal(node, "get", "nodes", "-A", NO_COLOR="1")


def test_a_table_fits_the_terminal(node: tuple[str, str]) -> None:
    wide = ("get", "nodes", "-A", "-o", "wide", "--no-color")

    assert "b" * 60 in _on_a_terminal(node, *wide, columns=300)
    narrow = _on_a_terminal(node, *wide, columns=180).splitlines()
    assert max(map(len, narrow)) <= 180
    assert "…" in narrow[1]


def test_raw_text_is_made_safe_on_a_terminal_alone(node: tuple[str, str]) -> None:
    code = "from roster.cli.output import Output; Output().text('a\\tb\\x1b[2J\\n\\u202ec')"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=20).stdout
        == "a\tb\x1b[2J\n\u202ec\n".encode()
    )
    ours, theirs = pty.openpty()
    try:
        subprocess.run([sys.executable, "-c", code], stdout=theirs, timeout=20, check=True)
        assert os.read(ours, 4096).decode().split("\r\n") == ["a\tb\\x1b[2J", r"\u202ec", ""]
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_ctrl_c_while_it_loads_is_no_traceback() -> None:
    code = """
import sys

class Impatient:
    def find_spec(self, name, path=None, target=None):
        if name == "roster.cli.app":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Impatient())
from roster.cli import main
from roster.cli.session import Session
sys.exit(main(["get", "nodes"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize(
    ("closed", "args", "status"),
    [
        (">&-", "get nodes -A", 0),
        (">&-", "watch --no-such-option", 2),
        ("2>&-", "get node nobody", 5),
        (">&- 2>&-", "call nothing", 7),
        ("<&-", "dead drop --all", 0),
        ("<&- >&- 2>&-", "find nothing", 7),
        (">&-", "tap --timeout 0", 0),
        (">&-", "--version", 0),
    ],
)
def test_closed_streams_are_no_defect(closed: str, args: str, status: int) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$1" -m roster {args} {closed}', "sh", sys.executable],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == status, done.stderr
    assert "defect" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "told"), [(aiormq.exceptions.ChannelAccessRefused("refused"), 0), (ValueError("other"), 1)]
)
def test_of_what_still_ran_at_the_end_the_brokers_library_shows_no_traceback(
    error: Exception, told: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def linger() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise error from None

    async def work() -> None:
        lingering.append(asyncio.create_task(linger()))
        await asyncio.sleep(0)

    lingering: list[asyncio.Task[None]] = []
    Session().run(work())
    assert len(caplog.records) == told
