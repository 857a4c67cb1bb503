"""ZooKeeper: one server, on a small Java machine."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import quote

from servers.certificates import Certificates, Pair
from servers.ports import LOOPBACK
from servers.process import Server
from servers.programs import programs

_MAIN = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
# What makes it start fast and stay small: no second compiler, one thread of garbage collection.
_JAVA = (
    "-Xmx256m",
    "-Xms32m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    "-XX:-UsePerfData",
)


class ZooKeeper(Server):
    """A ZooKeeper server.

    Args:
        directory: where its files go.
        fsync: False: writes are not flushed to disk, which is faster and outlives kill -9 all the same.
        tls: serve TLS on a second port, with these certificates; the URL is that of TLS.
        client_certificates: with `tls`: take only clients that have a certificate of the same authority.
        tick: milliseconds; a session's timeout is at least twice and at most twenty times as long.
        settings: further lines of `zoo.cfg`.
        start_within: seconds.
    """

    engine = "zookeeper"
    port_names = ("client", "secure")

    def __init__(
        self,
        directory: Path,
        *,
        fsync: bool = True,
        tls: Certificates | None = None,
        client_certificates: bool = False,
        tick: int = 500,
        settings: dict[str, str] | None = None,
        start_within: float = 60.0,
    ) -> None:
        super().__init__(directory, start_within=start_within)
        self.fsync = fsync
        self.tls = tls
        self.client_certificates = client_certificates
        self.tick = tick
        self._settings = settings or {}

    @property
    def url(self) -> str:
        return self.url_of()

    def url_of(self, user: str = "", password: str = "", *, client: Pair | None = None) -> str:
        """Return the URL with the name and password of digest authentication, and with another certificate."""
        who = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user else ""
        if not self.tls:
            return f"zookeeper://{who}{self.address}"
        pair = client or (self.tls.client if self.client_certificates else None)
        files = {"ca": self.tls.ca} | ({"cert": pair.cert, "key": pair.key} if pair else {})
        query = "&".join(f"{name}={quote(str(path))}" for name, path in files.items())
        return f"zookeepers://{who}{self.address}/?{query}"

    @property
    def address(self) -> str:
        """Host and port for clients: with TLS where there is TLS."""
        return f"{LOOPBACK}:{self.ports['secure' if self.tls else 'client']}"

    def command(self) -> list[str]:
        settings = {
            "dataDir": str(self.data),
            "clientPort": str(self.ports["client"]),
            "clientPortAddress": LOOPBACK,
            "tickTime": str(self.tick),
            "maxClientCnxns": "0",
            "admin.enableServer": "false",
            "4lw.commands.whitelist": "*",
        }
        if self.tls:
            settings |= {
                "secureClientPort": str(self.ports["secure"]),
                "secureClientPortAddress": LOOPBACK,
                "serverCnxnFactory": "org.apache.zookeeper.server.NettyServerCnxnFactory",
                "ssl.keyStore.location": str(self.tls.server.both),
                "ssl.keyStore.type": "PEM",
                "ssl.trustStore.location": str(self.tls.ca),
                "ssl.trustStore.type": "PEM",
                "ssl.clientAuth": "need" if self.client_certificates else "none",
            }
        lines = [f"{name}={value}\n" for name, value in (settings | self._settings).items()]
        configuration = self.directory / "zoo.cfg"
        configuration.write_text("".join(lines))
        self.data.mkdir(exist_ok=True)
        properties = {
            # Each log file begins as so many KiB of zeros (64 MiB otherwise).
            "zookeeper.preAllocSize": "1024",
            "zookeeper.forceSync": "yes" if self.fsync else "no",
            "org.slf4j.simpleLogger.defaultLogLevel": "warn",
        }
        found = programs("zookeeper")
        defined = [f"-D{name}={value}" for name, value in properties.items()]
        return [found["java"], *_JAVA, *defined, "-cp", found["classpath"], _MAIN, str(configuration)]

    def answers(self) -> bool:
        # What is asked while it comes up may never be answered.
        if "Mode: standalone" not in self.ask("srvr", timeout=0.5):
            return False
        # The port for TLS is opened after the other one serves.
        return self.tls is None or "Mode: standalone" in self._ask_secure(self.tls, "srvr", timeout=2)

    def ask(self, word: str, *, timeout: float = 2.0) -> str:
        """Send one of the four-letter words, such as `mntr`, and return the answer.

        Raises:
            OSError: the server does not answer.
        """
        with socket.create_connection((LOOPBACK, self.ports["client"]), timeout) as connection:
            return _say(connection, word)

    def _ask_secure(self, tls: Certificates, word: str, *, timeout: float) -> str:
        with tls.connect(LOOPBACK, self.ports["secure"], timeout=timeout) as connection:
            return _say(connection, word)


def _say(connection: socket.socket, word: str) -> str:
    connection.sendall(word.encode())
    return b"".join(iter(lambda: connection.recv(65536), b"")).decode(errors="replace")
