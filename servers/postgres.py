"""PostgreSQL: one server, with a database for whoever asks for one."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote

from servers.ports import LOOPBACK
from servers.process import Server, ServerError, run_program
from servers.programs import programs

# It refuses to run as root; this user comes with its package.
_USER = "postgres"
_STOP_SECONDS = 10
_INIT_SECONDS = 120
_OWNER = "roster"


class Postgres(Server):
    """A PostgreSQL server. Its owner is `roster`, with a password.

    Args:
        directory: where its log goes, and its data. As root the data is in a directory of the user postgres instead, which
            `close` removes: PostgreSQL does not run as root.
        fsync: False: as fast as it goes, for tests. What is committed outlives kill -9 all the same.
        start_within: seconds.
    """

    engine = "postgres"
    port_names = ("sql",)

    def __init__(self, directory: Path, *, fsync: bool = True, start_within: float = 60.0) -> None:
        super().__init__(directory, start_within=start_within)
        self._fsync = fsync
        self._password = os.urandom(12).hex()
        self._foreign: Path | None = None
        self._databases = 0

    @property
    def url(self) -> str:
        return self.url_of("postgres")

    def url_of(self, database: str, password: str | None = None) -> str:
        """Return the URL of a database."""
        secret = quote(self._password if password is None else password, safe="")
        return f"postgresql://{_OWNER}:{secret}@{LOOPBACK}:{self.ports['sql']}/{database}"

    def new_database(self) -> str:
        """Make a database, and return its URL."""
        self._databases += 1
        name = f"roster_{os.getpid()}_{self._databases}"
        self.sql(f"CREATE DATABASE {name}")
        return self.url_of(name)

    def sql(self, text: str) -> str:
        """Run SQL in the database `postgres`, and return what psql printed: rows alone, columns apart by `|`.

        Raises:
            ServerError: it failed; the text is its last line.
        """
        arguments = ["-h", LOOPBACK, "-p", str(self.ports["sql"]), "-U", _OWNER, "-d", "postgres"]
        return run_program(
            [programs("postgres")["psql"], "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", *arguments],
            stdin=text,
            environment={"PGPASSWORD": self._password},
            timeout=_INIT_SECONDS,
        )

    def command(self) -> list[str]:
        if not self.data.exists():
            self._init()
        settings = {
            "port": self.ports["sql"],
            "listen_addresses": LOOPBACK,
            "unix_socket_directories": "",
            "fsync": "on" if self._fsync else "off",
            "max_connections": 200,
            "log_min_messages": "warning",
        }
        server = [programs("postgres")["postgres"], "-D", str(self.data)]
        for name, value in settings.items():
            server += ["-c", f"{name}={value}"]
        return [*_as_other(), *server]

    def answers(self) -> bool:
        ready = [programs("postgres")["pg_isready"], "-q", "-h", LOOPBACK, "-p", str(self.ports["sql"])]
        try:
            return subprocess.run(ready, check=False, timeout=_STOP_SECONDS).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def kill(self) -> None:
        """End it at once, frozen or not, as a crash would, its processes too: it has to recover when it is started again."""
        if self._process is not None and self._process.poll() is None:
            # What SIGKILL leaves behind holds its shared memory for a moment, and a start in that moment is refused.
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(signal.SIGQUIT)
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                pass  # it is killed now
        super().kill()

    def close(self) -> None:
        super().close()
        if self._foreign is not None:
            shutil.rmtree(self._foreign, ignore_errors=True)
            self._foreign = None

    def _init(self) -> None:
        if os.geteuid() == 0:
            user = _user()
            if self._foreign is None:
                self._foreign = Path(tempfile.mkdtemp(prefix="roster-postgres-"))
                os.chown(self._foreign, user.pw_uid, user.pw_gid)
            self.data = self._foreign / "data"
            where = self._foreign
        else:
            where = self.directory
        secret = where / "password"
        secret.touch(mode=0o600)
        secret.write_text(self._password)
        if os.geteuid() == 0:
            os.chown(secret, user.pw_uid, user.pw_gid)
        options = [f"--pwfile={secret}", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
        command = [programs("postgres")["initdb"], "-D", str(self.data), "-U", _OWNER, *options]
        try:
            run_program([*_as_other(), *command], environment={}, timeout=_INIT_SECONDS, where=where)
        except BaseException:
            shutil.rmtree(self.data, ignore_errors=True)
            raise
        finally:
            secret.unlink()


def _user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(_USER)
    except KeyError:
        raise ServerError(
            f"PostgreSQL does not run as root, and there is no user {_USER} here: run this as another user"
        ) from None


def _as_other() -> list[str]:
    """Return what to put before a command so that it does not run as root; the process stays the same one."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", f"--reuid={_user().pw_uid}", f"--regid={_user().pw_gid}", "--clear-groups", "--"]
