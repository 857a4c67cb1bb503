"""A server as a process of this one: started, killed, frozen, thawed, wiped, and never left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from roster._clock import boottime
from servers.ports import Ports

# Seconds between two looks at a server that is coming up.
LOOK = 0.02
_TAIL = 20
# A shell that waits for this process to end, however it ends, and takes the server with it. (PR_SET_PDEATHSIG would do so
# when the starting THREAD ends, and only on Linux.)
_KEEPER = 'read -r line; kill -KILL "$1"'


class ServerError(Exception):
    """A server did not come up; the text holds the end of its log."""


class PortTakenError(ServerError):
    """Somebody else listens where the server wants to."""


def run_program(
    command: Sequence[str],
    *,
    stdin: str = "",
    environment: Mapping[str, str],
    timeout: float,
    where: Path | None = None,
) -> str:
    """Run a program that belongs to a server to its end, and return what it printed.

    Args:
        command: the program and its arguments.
        stdin: what it reads.
        environment: on top of that of this process.
        timeout: seconds.
        where: its working directory, if not this one.

    Raises:
        ServerError: it failed, and its last line is the text; or it did not end in time.
    """
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            command,
            input=stdin,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd=where,
        )
    except subprocess.TimeoutExpired as error:
        raise ServerError(f"{name} did not end within {timeout:g} s") from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise ServerError(f"{name}: {' '.join(said) or done.returncode}")
    return done.stdout


class Server:
    """One server. `start` is idempotent; every method blocks, so async code calls it by `asyncio.to_thread`.

    Args:
        directory: where its data, configuration and log go; made if it is not there.
        start_within: seconds from the start of the process until it must answer.

    Attributes:
        url: the registry URL of this server, with the credentials and TLS files of its owner.
        starts: how often the process was started.

    Example:
        >>> with Etcd(tmp_path) as server:  # doctest: +SKIP
        ...     server.kill()
        ...     server.restart()
    """

    engine: ClassVar[str]
    port_names: ClassVar[tuple[str, ...]]

    def __init__(self, directory: Path, *, start_within: float = 60.0) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.log = directory / f"{self.engine}.log"
        self.starts = 0
        self._start_within = start_within
        self._ports: Ports | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: subprocess.Popen[bytes] | None = None
        self._log_from = 0

    # What an engine says of itself.

    @property
    def url(self) -> str:
        raise NotImplementedError

    def command(self) -> list[str]:
        """Return the command, after writing whatever files it reads."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """Return variables to add to this process's own."""
        return {}

    def answers(self) -> bool:
        """Return whether the server serves requests; anything that fails with OSError means not yet."""
        raise NotImplementedError

    def forget(self) -> None:
        """Forget what was true of the data that were there before: a new, empty server is about to start."""

    def prepare(self) -> None:
        """Do what is done once with a new, empty server that answers: users, roles."""

    # What can be done to each of them.

    def start(self) -> Self:
        """Start it and wait until it answers. Ports stay the same from the first start on.

        Raises:
            ServerError: it did not answer in time, or ended.
            ServerMissingError: this machine has no such program.
        """
        if not self.alive:
            try:
                self._start()
            except BaseException:
                self.close()
                raise
        return self

    def _start(self) -> None:
        fresh = not self.data.exists()
        if fresh:
            self.forget()
        until = boottime() + self._start_within
        while True:
            self.launch()
            try:
                self.wait_ready()
                break
            except PortTakenError:
                if boottime() > until:
                    raise
            if self.starts == 1:  # nobody knows these ports yet
                self._release_ports()
                shutil.rmtree(self.data, ignore_errors=True)
                self.starts = 0
            time.sleep(LOOK)
        if fresh:
            self.prepare()

    def reserve(self) -> None:
        """Choose the ports, if there are none yet."""
        if self._ports is None:
            self._ports = Ports(*self.port_names)

    def launch(self) -> None:
        """Start the process without waiting for it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.reserve()
        command = self.command()
        self._log_from = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            # A session of its own: the terminal's Ctrl-C is not for it.
            self._process = subprocess.Popen(
                command,
                cwd=self.directory,
                env={**os.environ, **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._keeper = subprocess.Popen(
            ["/bin/sh", "-c", _KEEPER, "keeper", str(self._process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.starts += 1

    def wait_ready(self) -> None:
        """Wait until it answers.

        Raises:
            ServerError: it did not in time, or ended.
        """
        until = boottime() + self._start_within
        while True:
            if not self.alive:
                said = self.tail()
                kind = PortTakenError if "address already in use" in said.lower() else ServerError
                raise kind(f"{self.engine} ended instead of answering; its log ends:\n{said}")
            try:
                if self.answers():
                    return
            except OSError:
                pass  # not yet
            if boottime() > until:
                self.kill()
                raise ServerError(
                    f"{self.engine} did not answer within {self._start_within:g} s; its log ends:\n{self.tail()}"
                )
            time.sleep(LOOK)

    @property
    def ports(self) -> Ports:
        """The ports by name; there are some from the first start on."""
        if self._ports is None:
            raise RuntimeError(f"{self.engine} has no ports before it was started")
        return self._ports

    @property
    def pid(self) -> int:
        """The id of the server's process."""
        if self._process is None:
            raise RuntimeError(f"{self.engine} is not running")
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process is there, frozen or not."""
        if self._process is None:
            return False
        if self._process.poll() is None:
            return True
        self._dismiss()
        return False

    def kill(self) -> None:
        """End it at once with SIGKILL, frozen or not, and wait until it is gone."""
        if self._process is None:
            return
        self._process.kill()
        self._dismiss()

    def _dismiss(self) -> None:
        # The keeper goes before the process is reaped: from then on its id may be somebody else's.
        if self._keeper is not None and self._keeper.stdin is not None:
            self._keeper.kill()
            self._keeper.stdin.close()
            self._keeper.wait()
        if self._process is not None:
            self._process.wait()
        self._keeper = self._process = None

    def freeze(self) -> None:
        """Stop it with SIGSTOP: it keeps its connections and says nothing."""
        os.kill(self.pid, signal.SIGSTOP)
        if hasattr(os, "waitid"):  # macOS has none before Python 3.13
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        """Let it go on with SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> Self:
        """Kill it if it runs, and start it again with the same ports and the same data."""
        self.kill()
        return self.start()

    def wipe(self) -> Self:
        """Kill it, delete its data, start it again on the same ports."""
        self.kill()
        shutil.rmtree(self.data, ignore_errors=True)
        return self.start()

    def close(self) -> None:
        """Kill it and let go of its ports; its files stay."""
        self.kill()
        self._release_ports()

    def _release_ports(self) -> None:
        if self._ports is not None:
            self._ports.release()
            self._ports = None

    def tail(self) -> str:
        """Return the last lines of what it has logged since it was started last."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(self._log_from)
            return "\n".join(log.read().decode(errors="replace").splitlines()[-_TAIL:])

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
