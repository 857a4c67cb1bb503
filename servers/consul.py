"""Consul: one server that is its own cluster, or a development agent without a disk."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from roster._clock import boottime
from servers.certificates import Certificates, Pair
from servers.http import request
from servers.ports import LOOPBACK
from servers.process import LOOK, Server, ServerError
from servers.programs import programs

# Seconds for a new leader to take up its access lists.
_ACL_WITHIN = 20.0


class Consul(Server):
    """A Consul agent that is a server.

    Args:
        directory: where its files go.
        dev: nothing is kept on disk: it comes up sooner, and a restart begins with nothing.
        acl: access control is on, and whoever has no token may do nothing.
        tls: serve HTTPS as well, with these certificates; the URL is that of HTTPS.
        client_certificates: with `tls`: take only clients that have a certificate of the same authority.
        max_connections: how many connections one address may have; None: Consul's own limit, 200.
        settings: further settings of the agent's configuration.
        start_within: seconds.

    Attributes:
        token: the management token, where `acl` is on.
    """

    engine = "consul"
    port_names = ("http", "https", "dns", "server", "serf_lan")

    def __init__(
        self,
        directory: Path,
        *,
        dev: bool = False,
        acl: bool = False,
        tls: Certificates | None = None,
        client_certificates: bool = False,
        max_connections: int | None = None,
        settings: Mapping[str, Any] | None = None,
        start_within: float = 60.0,
    ) -> None:
        super().__init__(directory, start_within=start_within)
        self.dev = dev
        self.acl = acl
        self.tls = tls
        self.client_certificates = client_certificates
        self.token: str | None = None
        self._max_connections = max_connections
        self._settings = dict(settings or {})

    @property
    def url(self) -> str:
        return self.url_of(self.token)

    def url_of(self, token: str | None = None, *, client: Pair | None = None) -> str:
        """Return the URL with a token, and with a certificate other than the usual client's."""
        who = f":{quote(token, safe='')}@" if token else ""
        if not self.tls:
            return f"consul://{who}{self.address}"
        pair = client or (self.tls.client if self.client_certificates else None)
        files = {"ca": self.tls.ca} | ({"cert": pair.cert, "key": pair.key} if pair else {})
        query = "&".join(f"{name}={quote(str(path))}" for name, path in files.items())
        return f"consuls://{who}{self.address}/?{query}"

    @property
    def address(self) -> str:
        """Host and port of the API for clients: HTTPS where there is TLS, else HTTP."""
        return f"{LOOPBACK}:{self.ports['https' if self.tls else 'http']}"

    @property
    def http_port(self) -> int:
        """Port of the API without TLS."""
        return self.ports["http"]

    @property
    def dns_port(self) -> int:
        """Port of the name service."""
        return self.ports["dns"]

    def command(self) -> list[str]:
        ports = {name: self.ports[name] for name in self.port_names}
        settings: dict[str, Any] = {
            "node_name": "roster",
            "bind_addr": LOOPBACK,
            "client_addr": LOOPBACK,
            "ports": ports | {"https": ports["https"] if self.tls else -1, "serf_wan": -1, "grpc": -1},
            "performance": {"raft_multiplier": 1},
            "connect": {"enabled": False},
            "disable_update_check": True,
            "log_level": "warn",
        }
        if self._max_connections is not None:
            settings["limits"] = {"http_max_conns_per_client": self._max_connections}
        if self.acl:
            settings["acl"] = {"enabled": True, "default_policy": "deny", "enable_token_persistence": True}
        if self.tls:
            settings |= {
                "ca_file": str(self.tls.ca),
                "cert_file": str(self.tls.server.cert),
                "key_file": str(self.tls.server.key),
                "verify_incoming_https": self.client_certificates,
            }
        if not self.dev:
            settings |= {"server": True, "bootstrap_expect": 1, "data_dir": str(self.data)}
        configuration = self.directory / "consul.json"
        configuration.write_text(json.dumps(settings | self._settings, indent=1))
        mode = ["-dev"] if self.dev else []
        return [programs("consul")["consul"], "agent", *mode, f"-config-file={configuration}"]

    def answers(self) -> bool:
        # A consistent read is one that the leader has just made sure of. It looks at the token first: a leader that has not
        # read its log again after a restart refuses every token, also the good ones.
        status, _ = request(self.http_port, "/v1/kv/roster-test-answers?consistent", token=self.token)
        return status in (200, 404) or (status == 403 and self.acl and self.token is None)

    def forget(self) -> None:
        self.token = None

    def prepare(self) -> None:
        if not self.acl:
            return
        until = boottime() + _ACL_WITHIN
        while True:
            try:
                self.token = self.api("PUT", "/v1/acl/bootstrap")["SecretID"]
                break
            except ServerError:
                # A new leader begins with the access lists of the past, and leaves them a moment after it serves reads.
                if boottime() > until:
                    raise
                time.sleep(LOOK)
        # Without a token of its own the agent may not tell the catalog of its node and services.
        self.api("PUT", "/v1/agent/token/agent", {"Token": self.token})

    def add_token(self, rules: str) -> str:
        """Make a token with a policy of these rules, such as `key_prefix "ai-team/" { policy = "read" }`."""
        name = f"policy-{len(self.api('GET', '/v1/acl/policies'))}"
        self.api("PUT", "/v1/acl/policy", {"Name": name, "Rules": rules})
        token: str = self.api("PUT", "/v1/acl/token", {"Policies": [{"Name": name}]})["SecretID"]
        return token

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the HTTP API as its owner and return what it answered, None if nothing.

        Raises:
            ServerError: the answer is an error.
        """
        status, text = request(self.http_port, path, method=method, body=body, token=self.token, timeout=10)
        if status != 200:
            raise ServerError(
                f"consul: {method} {path.partition('?')[0]} answered {status}: {text.strip()[:200]}"
            )
        return json.loads(text) if text.strip() else None
