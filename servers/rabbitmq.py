"""RabbitMQ: one broker, with an epmd of its own, so that any number of them run side by side."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from servers.certificates import Certificates, Pair
from servers.ports import LOOPBACK
from servers.process import Server, ServerError
from servers.programs import programs

_CTL_TIMEOUT = 60
_STARTING = "requires the 'rabbit' app to be running"
_GREETING = b"AMQP\x00\x00\x09\x01"
# Of all of the broker one thread does the work: a test's broker waits more than it works.
_EMULATOR = "+S 1:1 +SDcpu 1:1 +SDio 2 +A 4 +sbwt none +sbwtdcpu none +sbwtdio none"
OWNER, OWNER_PASSWORD = "owner", "owner-secret"


@dataclass(frozen=True, slots=True)
class User:
    """Who may do what, as regular expressions over the names of queues and exchanges.

    Attributes:
        password: the password.
        configure: what may be declared and deleted.
        write: where may be published to.
        read: what may be consumed.
    """

    password: str
    configure: str = ".*"
    write: str = ".*"
    read: str = ".*"


class RabbitMQ(Server):
    """A RabbitMQ broker without plugins.

    Args:
        directory: where its files go.
        users: besides the owner, who may do everything.
        vhosts: virtual hosts besides `/`, each a bus of its own, with the same users.
        tls: serve AMQP over TLS as well, with these certificates; the URL is that of TLS.
        client_certificates: with `tls`: take only clients that have a certificate of the same authority.
        heartbeat: seconds that the broker suggests; it notices a silent client within twice that.
        consumer_timeout: milliseconds that a consumer may hold a delivery.
        channel_tick_interval: milliseconds between two looks at that.
        settings: further lines of rabbitmq.conf.
        start_within: seconds.
    """

    engine = "rabbitmq"
    port_names = ("amqp", "amqps", "distribution")

    def __init__(
        self,
        directory: Path,
        *,
        users: Mapping[str, User] | None = None,
        vhosts: Sequence[str] = (),
        tls: Certificates | None = None,
        client_certificates: bool = False,
        heartbeat: int | None = None,
        consumer_timeout: int | None = None,
        channel_tick_interval: int | None = None,
        settings: Mapping[str, object] | None = None,
        start_within: float = 120.0,
    ) -> None:
        super().__init__(directory, start_within=start_within)
        self.users = {OWNER: User(OWNER_PASSWORD), **(users or {})}
        self.vhosts = ["/", *vhosts]
        self.tls = tls
        self.client_certificates = client_certificates
        self._settings = dict(settings or {})
        if heartbeat is not None:
            self._settings["heartbeat"] = heartbeat
        if consumer_timeout is not None:
            self._settings["consumer_timeout"] = consumer_timeout
        self._channel_tick_interval = channel_tick_interval
        self._epmd = _Epmd(directory / "epmd")

    @property
    def url(self) -> str:
        return self.url_of()

    def url_of(
        self,
        user: str = OWNER,
        password: str | None = None,
        *,
        vhost: str = "/",
        client: Pair | None = None,
    ) -> str:
        """Return the URL for a user, and with a certificate other than the usual client's.

        Args:
            password: another than the user's own.
        """
        path = "" if vhost == "/" else f"/{quote(vhost, safe='')}"
        secret = self.users[user].password if password is None else password
        who = f"{quote(user, safe='')}:{quote(secret, safe='')}@"
        if not self.tls:
            return f"amqp://{who}{LOOPBACK}:{self.ports['amqp']}{path}"
        pair = client or (self.tls.client if self.client_certificates else None)
        files = {"ca": self.tls.ca} | ({"cert": pair.cert, "key": pair.key} if pair else {})
        query = "&".join(f"{name}={quote(str(path))}" for name, path in files.items())
        return f"amqps://{who}{LOOPBACK}:{self.ports['amqps']}{path or '/'}?{query}"

    def launch(self) -> None:
        # The broker would start one in the background, that nobody ends.
        self._epmd.start()
        super().launch()

    def close(self) -> None:
        super().close()
        self._epmd.close()

    def command(self) -> list[str]:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._write_definitions()
        settings: dict[str, object] = {
            "listeners.tcp.1": f"{LOOPBACK}:{self.ports['amqp']}",
            "load_definitions": self._definitions_file,
            # On one disk with everything else of this machine: how full that is, is nobody's question here.
            "disk_free_limit.absolute": "1MB",
            "log.console": "true",
            "log.console.level": "warning",
            "log.file": "false",
        }
        if self.tls:
            settings |= {
                "listeners.ssl.1": f"{LOOPBACK}:{self.ports['amqps']}",
                "ssl_options.cacertfile": self.tls.ca,
                "ssl_options.certfile": self.tls.server.cert,
                "ssl_options.keyfile": self.tls.server.key,
                "ssl_options.verify": "verify_peer" if self.client_certificates else "verify_none",
                "ssl_options.fail_if_no_peer_cert": str(self.client_certificates).lower(),
            }
        lines = (f"{name} = {value}\n" for name, value in (settings | self._settings).items())
        (self.directory / "rabbitmq.conf").write_text("".join(lines))
        # rabbitmq.conf has no name for this one.
        tick = self._channel_tick_interval
        advanced = f"[{{rabbit, [{{channel_tick_interval, {tick}}}]}}].\n" if tick is not None else "[].\n"
        (self.directory / "advanced.config").write_text(advanced)
        (self.directory / "enabled_plugins").write_text("[].\n")
        cookie = self.directory / ".erlang.cookie"
        if not cookie.exists():
            cookie.touch(mode=0o600)
            cookie.write_text(os.urandom(16).hex())
            cookie.chmod(0o400)
        return [programs("rabbitmq")["rabbitmq-server"]]

    def environment(self) -> Mapping[str, str]:
        return {
            "HOME": str(self.directory),
            "ERL_EPMD_PORT": str(self._epmd.ports["epmd"]),
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_NODENAME": f"roster-{self.ports['amqp']}@localhost",
            "RABBITMQ_DIST_PORT": str(self.ports["distribution"]),
            "RABBITMQ_MNESIA_BASE": str(self.data),
            "RABBITMQ_LOG_BASE": str(self.directory),
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.directory / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(self.directory / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(self.directory / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                f"{_EMULATOR} -kernel inet_dist_use_interface {{127,0,0,1}}"
            ),
            "RABBITMQ_CTL_ERL_ARGS": "+S 1:1 +sbwt none",
            # The script then becomes the broker, instead of waiting for it: what is killed and frozen is the broker.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def answers(self) -> bool:
        with socket.create_connection((LOOPBACK, self.ports["amqp"]), timeout=2) as connection:
            # Nothing is listened for before the definitions are loaded.
            if not _greets(connection):
                return False
        if self.tls is None:
            return True
        # The port for TLS is opened after the other one.
        with self.tls.connect(LOOPBACK, self.ports["amqps"], timeout=2) as connection:
            return _greets(connection)

    def settle(self) -> None:
        """Return when the broker has started to the end: it lets clients in some moments sooner, and rabbitmqctl later."""
        self._ctl("await_startup")

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl on this broker and return what it printed. It takes some seconds.

        Raises:
            ServerError: it failed; the text is its line about that.
        """
        try:
            return self._ctl(*arguments)
        except ServerError as error:
            if _STARTING not in str(error):
                raise
        self.settle()
        return self._ctl(*arguments)

    def _ctl(self, *arguments: str) -> str:
        command = [programs("rabbitmq")["rabbitmqctl"], "--quiet", *arguments]
        try:
            done = subprocess.run(
                command,
                env={**os.environ, **self.environment()},
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_CTL_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ServerError(f"rabbitmqctl did not end within {_CTL_TIMEOUT} s") from error
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            # After an error in the arguments it explains itself at length.
            why = [line for line in said if line.startswith("Error")] or said[-1:]
            raise ServerError(f"rabbitmqctl: {' '.join(why) or done.returncode}")
        return done.stdout

    def alarm(self, *, on: bool) -> None:
        """Raise the memory alarm, which blocks every connection that publishes, or end it."""
        self.ctl("set_vm_memory_high_watermark", "0.0000001" if on else "0.4")

    def add_vhosts(self, names: Sequence[str]) -> None:
        """Make more virtual hosts. Many at once take little longer than one.

        Raises:
            ServerError: it failed.
        """
        self.vhosts += names
        self._write_definitions()
        self.ctl("import_definitions", str(self._definitions_file))

    @property
    def _definitions_file(self) -> Path:
        return self.directory / "definitions.json"

    def _write_definitions(self) -> None:
        self._definitions_file.write_text(json.dumps(self._definitions()))

    def _definitions(self) -> dict[str, object]:
        return {
            "vhosts": [{"name": vhost} for vhost in self.vhosts],
            "users": [
                {
                    "name": name,
                    "password_hash": _hashed(user.password),
                    "hashing_algorithm": "rabbit_password_hashing_sha256",
                    "tags": ["administrator"] if name == OWNER else [],
                }
                for name, user in self.users.items()
            ],
            "permissions": [
                {
                    "user": name,
                    "vhost": vhost,
                    "configure": user.configure,
                    "write": user.write,
                    "read": user.read,
                }
                for name, user in self.users.items()
                for vhost in self.vhosts
            ],
        }


class _Epmd(Server):
    """The daemon that tells Erlang nodes each other's ports."""

    engine = "epmd"
    port_names = ("epmd",)

    def command(self) -> list[str]:
        return [programs("rabbitmq")["epmd"], "-port", str(self.ports["epmd"]), "-address", LOOPBACK]

    def answers(self) -> bool:
        with socket.create_connection((LOOPBACK, self.ports["epmd"]), timeout=2):
            return True


def _greets(connection: socket.socket) -> bool:
    connection.sendall(_GREETING)
    # A method frame of channel 0: Connection.Start.
    return connection.recv(3) == b"\x01\x00\x00"


def _hashed(password: str) -> str:
    salt = os.urandom(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
