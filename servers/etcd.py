"""etcd: one server, or a cluster of them on one machine."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from roster._clock import boottime
from servers.certificates import Certificates, Pair
from servers.http import request
from servers.ports import LOOPBACK
from servers.process import LOOK, Server, ServerError, run_program
from servers.programs import programs

_CTL_TIMEOUT = 30
# Seconds until a cluster has elected a member.
_ELECTED_WITHIN = 30.0


class Etcd(Server):
    """An etcd server.

    Args:
        directory: where its files go.
        fsync: False: as fast as it goes, for tests. Writes are not flushed to disk (they outlive kill -9 all the same), and
            a server alone elects itself within 0.25 s instead of 1 s, so that its shortest lease is 1 s instead of 2 s.
        root_password: authentication is on, and this is the password of `root`.
        token_ttl: seconds that a token lives.
        tls: serve with TLS, with these certificates.
        client_certificates: with `tls`: take only clients that have a certificate of the same authority.
        quota: bytes that the database may have before etcd refuses writes.
        name: its name as a member of a cluster.
        token: the cluster's token; etcd makes the cluster's id of it and of the members' ports.
        extra: further arguments of etcd.
        start_within: seconds.
    """

    engine = "etcd"
    port_names = ("client", "peer", "metrics")

    def __init__(
        self,
        directory: Path,
        *,
        fsync: bool = True,
        root_password: str | None = None,
        token_ttl: int | None = None,
        tls: Certificates | None = None,
        client_certificates: bool = False,
        quota: int | None = None,
        name: str = "default",
        token: str = "roster",
        extra: Sequence[str] = (),
        start_within: float = 60.0,
    ) -> None:
        super().__init__(directory, start_within=start_within)
        self.name = name
        self.token = token
        self.root_password = root_password
        self.tls = tls
        self.client_certificates = client_certificates
        self.members: dict[str, str] = {}
        self._fsync = fsync
        self._extra: list[str] = []
        self._extra += [f"--auth-token-ttl={token_ttl}"] if token_ttl is not None else []
        self._extra += [f"--quota-backend-bytes={quota}"] if quota is not None else []
        self._extra += extra

    @property
    def url(self) -> str:
        return self.url_of("root", self.root_password) if self.root_password else self.url_of()

    def url_of(self, user: str = "", password: str = "", *, client: Pair | None = None) -> str:
        """Return the URL for a user, and with a certificate other than the usual client's."""
        return _url([self], user, password, client)

    @property
    def address(self) -> str:
        """Host and port for clients."""
        return f"{LOOPBACK}:{self.ports['client']}"

    @property
    def endpoint(self) -> str:
        """The client address as etcd's own tools take it."""
        return f"{'https' if self.tls else 'http'}://{self.address}"

    @property
    def peer(self) -> str:
        """The address for other members."""
        return f"http://{LOOPBACK}:{self.ports['peer']}"

    def command(self) -> list[str]:
        members = self.members or {self.name: self.peer}
        arguments = {
            "name": self.name,
            "data-dir": self.data,
            "listen-client-urls": self.endpoint,
            "advertise-client-urls": self.endpoint,
            "listen-peer-urls": self.peer,
            "initial-advertise-peer-urls": self.peer,
            "initial-cluster": ",".join(f"{name}={peer}" for name, peer in members.items()),
            "initial-cluster-token": self.token,
            "listen-metrics-urls": f"http://{LOOPBACK}:{self.ports['metrics']}",
            "log-level": "warn",
        }
        if self.tls:
            arguments |= {"cert-file": self.tls.server.cert, "key-file": self.tls.server.key}
            if self.client_certificates:
                arguments |= {"trusted-ca-file": self.tls.ca}
        command = [programs("etcd")["etcd"], *(f"--{name}={value}" for name, value in arguments.items())]
        command += ["--client-cert-auth"] if self.client_certificates else []
        command += [] if self._fsync else ["--unsafe-no-fsync"]
        if not self._fsync and not self.members:
            command += ["--heartbeat-interval=50", "--election-timeout=250"]
        return [*command, *self._extra]

    def answers(self) -> bool:
        # The address of the metrics asks for no certificate; its health is a read that a majority agreed to.
        return request(self.ports["metrics"], "/health")[0] == 200

    def prepare(self) -> None:
        if self.root_password is None:
            return
        self.ctl("user", "add", "root", "--interactive=false", stdin=self.root_password, as_root=False)
        self.ctl("user", "grant-role", "root", "root", as_root=False)
        self.ctl("auth", "enable", as_root=False)

    def add_user(self, name: str, password: str, *, access: str = "readwrite", prefix: str = "/") -> None:
        """Make a user who may `read`, `write` or `readwrite` what lies under a prefix."""
        self.ctl("role", "add", f"{name}-role")
        self.ctl("role", "grant-permission", f"{name}-role", "--prefix=true", access, prefix)
        self.ctl("user", "add", name, "--interactive=false", stdin=password)
        self.ctl("user", "grant-role", name, f"{name}-role")

    def ctl(self, *arguments: str, stdin: str = "", as_root: bool = True) -> str:
        """Run etcdctl on this server and return what it printed.

        Raises:
            ServerError: it failed; the text is its last line.
        """
        command = [programs("etcd")["etcdctl"], f"--endpoints={self.endpoint}"]
        # Of itself it gives a login 2 s and a command 5 s, which is short on a busy machine.
        command += [f"--dial-timeout={_CTL_TIMEOUT}s", f"--command-timeout={_CTL_TIMEOUT}s"]
        if self.tls:
            command += [f"--cacert={self.tls.ca}"]
        if self.tls and self.client_certificates:
            command += [f"--cert={self.tls.client.cert}", f"--key={self.tls.client.key}"]
        environment = {"ETCDCTL_API": "3"}
        if self.root_password and as_root:
            environment["ETCDCTL_USER"] = f"root:{self.root_password}"
        return run_program([*command, *arguments], stdin=stdin, environment=environment, timeout=_CTL_TIMEOUT)

    def metric(self, name: str) -> float:
        """Return one number of `/metrics`, such as `etcd_server_is_leader`.

        Raises:
            OSError: the server does not answer.
            KeyError: it has no such metric.
        """
        _, text = request(self.ports["metrics"], "/metrics")
        for line in text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        raise KeyError(name)

    def snapshot(self, path: Path) -> Path:
        """Save a backup of the data to a file and return it."""
        self.ctl("snapshot", "save", str(path))
        return path

    def restore(self, path: Path) -> Self:
        """Kill the server, replace its data by a backup, start it again on the same ports."""
        self.kill()
        shutil.rmtree(self.data, ignore_errors=True)
        tools = programs("etcd")
        run_program(
            [
                tools.get("etcdutl")
                or tools["etcdctl"],  # etcdutl came with 3.5, and etcdctl could do it before
                *("snapshot", "restore", str(path)),
                f"--data-dir={self.data}",
                f"--name={self.name}",
                f"--initial-cluster={self.name}={self.peer}",
                f"--initial-cluster-token={self.token}",
                f"--initial-advertise-peer-urls={self.peer}",
            ],
            environment={"ETCDCTL_API": "3"},
            timeout=_CTL_TIMEOUT,
        )
        return self.start()


class EtcdCluster:
    """Some etcd servers that are one.

    Args:
        directory: each member has a directory of its own in it.
        members: how many.
        options: of each `Etcd`.

    Attributes:
        members: each can be killed, frozen and started again by itself. `restart` waits until the member answers, which
            needs a majority; `launch` does not wait.
    """

    engine = "etcd"

    def __init__(
        self,
        directory: Path,
        *,
        members: int = 3,
        fsync: bool = True,
        tls: Certificates | None = None,
        start_within: float = 60.0,
    ) -> None:
        self.members = [
            Etcd(directory / f"m{number}", fsync=fsync, tls=tls, name=f"m{number}", start_within=start_within)
            for number in range(members)
        ]

    @property
    def url(self) -> str:
        """The registry URL that names them all."""
        return _url(self.members)

    def start(self) -> Self:
        """Start them all and wait until each answers.

        Raises:
            ServerError: one of them did not come up.
        """
        try:
            for member in self.members:
                member.reserve()
            peers = {member.name: member.peer for member in self.members}
            for member in self.members:
                member.members = peers
                member.launch()
            for member in self.members:
                member.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def leader(self) -> Etcd:
        """Return the member that leads, once one does.

        Raises:
            ServerError: none does in time.
        """
        until = boottime() + _ELECTED_WITHIN
        while boottime() < until:
            for member in self.members:
                try:
                    if member.alive and member.metric("etcd_server_is_leader") == 1:
                        return member
                except OSError:
                    continue  # this one is down
            time.sleep(LOOK)
        raise ServerError(f"no member of the etcd cluster was elected within {_ELECTED_WITHIN:g} s")

    def close(self) -> None:
        """Kill them all."""
        for member in self.members:
            member.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _url(members: Sequence[Etcd], user: str = "", password: str = "", client: Pair | None = None) -> str:
    first = members[0]
    options = {}
    if first.tls:
        options["ca"] = first.tls.ca
        pair = client or (first.tls.client if first.client_certificates else None)
        if pair:
            options |= {"cert": pair.cert, "key": pair.key}
    who = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user else ""
    query = "/?" + "&".join(f"{name}={quote(str(path))}" for name, path in options.items()) if options else ""
    return f"{'etcds' if first.tls else 'etcd'}://{who}{','.join(each.address for each in members)}{query}"
