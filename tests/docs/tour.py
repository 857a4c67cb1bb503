"""Follows a document as a reader does: runs its commands and programs in order, and compares what they print.

A `console` block holds `$ commands`, each with its output under it. What differs from run to run is compared by kind:
durations (`3s`, `1.2 ms`), process ids, uids. `...` stands for anything within a line, and alone on a line for any lines.
A command that ends in `&` runs in the background, and the tour goes on when its node is ready; `kill %N` and `kill -9 %N`
end it, by its process id. A `python` or `yaml` block with a file's name behind it is that file; one without is run.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.docs.markdown import ROOT, Block

from roster.sync import Registry

DEADLINE = 60.0
# These only look: what they show may be a moment behind what was done before.
_LOOKS = re.compile(r"roster (get|find|describe)\b")


def commands(block: Block) -> list[tuple[str, str]]:
    """Return each command of a console block with the output shown under it."""
    found: list[tuple[str, str]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
        else:
            assert found, f"{block} begins with an output"
            command, output = found[-1]
            if command.endswith("\\"):
                found[-1] = (f"{command[:-1]}{line.strip()}", output)
            else:
                found[-1] = (command, f"{output}{line}\n")
    return found


def pattern(shown: str) -> re.Pattern[str]:
    """Return what an output must look like to be the one that is shown."""
    lines = []
    for line in shown.splitlines():
        if line.strip() == "...":
            lines.append(r"(?:.*\n)*?")
            continue
        text = re.escape(" ".join(line.split())).replace(re.escape("..."), ".*")
        text = re.sub(r"\b\d+(\\\.\d+)?(\\ )?(ms|us|s|m|h)\b", r"\\d+(?:\\.\\d+)?\2(?:ms|us|s|m|h)", text)
        text = re.sub(r"pid(\\ )\d+", r"pid\1\\d+", text)
        text = re.sub(r"[0-9a-f]{8}(\\-[0-9a-f]{4}){3}\\-[0-9a-f]{12}", "[0-9a-f-]{36}", text)
        lines.append(text + "\n")
    return re.compile("".join(lines))


def same(shown: str, printed: str) -> bool:
    """Whether an output is the one that is shown."""
    plain = "".join(" ".join(line.split()) + "\n" for line in printed.splitlines())
    return pattern(shown).fullmatch(plain) is not None


class Tour:
    """A clone's directory with a registry and a bus of its own, and the processes started there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("examples", "docs", "Makefile"):
            (directory / name).symlink_to(ROOT / name)
        (directory / ".venv").symlink_to(Path(sys.prefix))
        self.state = directory / "state"
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ROSTER_", "ETCD_", "MAKE"))
        }
        self.environment = {**clean, "ROSTER_STATE_DIR": str(self.state), "NO_COLOR": "1", "COLUMNS": "140"}
        self.jobs: list[subprocess.Popen[str]] = []

    def follow(self, block: Block) -> None:
        """Do what a block says."""
        if block.language == "console":
            for command, shown in commands(block):
                self._command(block, command, shown)
        elif block.argument:
            written = (ROOT / block.argument).read_text(encoding="utf-8")
            assert block.text.strip() in written, f"{block}: {block.argument} says something else"
        elif block.language == "python":
            self._expect(block, [str(self.directory / ".venv/bin/python"), "-"], "...\n", stdin=block.text)

    def _command(self, block: Block, command: str, shown: str) -> None:
        if made := re.fullmatch(r"make (\w+)", command):
            self._expect(block, ["make", "-n", "-C", str(ROOT), made[1]], "...\n")
        elif ended := re.fullmatch(r"kill (?:-(9) )?%(\d+)", command):
            job = self.jobs[int(ended[2]) - 1]
            job.send_signal(signal.SIGKILL if ended[1] else signal.SIGTERM)
            # 143: `roster register` passes on that its command was ended by SIGTERM.
            assert job.wait(DEADLINE) in ((-9,) if ended[1] else (0, 143)), f"{block}: $ {command}"
        elif command.endswith("&"):
            self._background(block, shlex.split(command[:-1]))
        else:
            self._expect(block, ["bash", "-c", command], shown, again=bool(_LOOKS.search(command)))

    def _expect(
        self, block: Block, command: list[str], shown: str, *, stdin: str = "", again: bool = False
    ) -> None:
        until = time.monotonic() + DEADLINE
        while True:
            done = subprocess.run(
                command,
                cwd=self.directory,
                env=self.environment,
                input=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=DEADLINE,
                check=False,
            )
            if same(shown, done.stdout):
                break
            if not again or time.monotonic() > until:
                raise AssertionError(f"{block}: $ {command[-1]}\nshown:\n{shown}\nprinted:\n{done.stdout}")
        # What failed on purpose shows its error.
        assert done.returncode == 0 or "error:" in shown or ": expected" in shown, f"{block}: {command[-1]}"

    def _background(self, block: Block, command: list[str]) -> None:
        registry = Registry.connect(f"sqlite://{self.state}/registry.db")
        before = {node.uid for node in registry.find()}
        job = subprocess.Popen(
            command,
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.jobs.append(job)
        until = time.monotonic() + DEADLINE
        pause = threading.Event()
        with registry:
            while not {node.uid for node in registry.find(healthy=True)} - before:
                assert job.poll() is None, f"{block}: {shlex.join(command)} ended: {job.communicate()[1]}"
                assert time.monotonic() < until, f"{block}: {shlex.join(command)} is not ready"
                pause.wait(0.01)

    def end(self) -> None:
        """End what is still running."""
        for job in self.jobs:
            with contextlib.suppress(ProcessLookupError):
                job.terminate()
        for job in self.jobs:
            try:
                job.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                job.kill()
                job.wait()
            if job.stderr is not None:
                job.stderr.close()


@contextmanager
def tour(directory: Path) -> Iterator[Tour]:
    """Yield a tour in a directory; whatever it started ends with it."""
    made = Tour(directory)
    try:
        yield made
    finally:
        made.end()
