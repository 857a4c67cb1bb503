"""A server in a container, where there is a Docker engine and no program: for tests that only need a store."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from servers.ports import LOOPBACK, Ports
from servers.process import ServerError

FILE = Path(__file__).resolve().parent.parent / "deploy" / "compose.yaml"
_UP_WITHIN = 90
_DOWN_WITHIN = 60


class Container:
    """One service of deploy/compose.yaml, in a project of its own, so that several may run side by side.

    Args:
        engine: the service: `etcd`, `consul`, `zookeeper`, `rabbitmq`.
    """

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self._port = 0
        self._keeper: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its registry URL, a broker's bus URL."""
        scheme = "amqp" if self.engine == "rabbitmq" else self.engine
        return f"{scheme}://{LOOPBACK}:{self._port}"

    def start(self) -> Self:
        """Bring it up and wait until it is healthy.

        Raises:
            ServerError: it did not come up.
        """
        ports = Ports("client", "ui")
        self._port = ports["client"]
        ports.release()
        project = f"roster-{self.engine}-{self._port}"
        compose = ["docker", "compose", "-p", project, "-f", str(FILE)]
        environment = {
            **os.environ,
            f"ROSTER_{self.engine.upper()}_PORT": str(self._port),
            # Brokers of several tests run side by side.
            "ROSTER_RABBITMQ_UI_PORT": str(ports["ui"]),
        }
        # It goes when this process does, however that ends.
        self._keeper = subprocess.Popen(
            [
                "/bin/sh",
                "-c",
                'read -r line; exec "$@"',
                "keeper",
                *compose,
                "down",
                "--volumes",
                "--timeout=0",
            ],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            subprocess.run(
                [*compose, "up", "-d", "--wait", self.engine],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_UP_WITHIN,
                check=True,
            )
        except subprocess.CalledProcessError as error:
            self.close()
            said = str(error.stderr).strip().splitlines()[-1:]
            raise ServerError(f"docker compose did not bring {self.engine} up: {' '.join(said)}") from error
        except subprocess.TimeoutExpired as error:
            self.close()
            raise ServerError(
                f"docker compose did not bring {self.engine} up within {_UP_WITHIN} s"
            ) from error
        return self

    def close(self) -> None:
        """Take it down, with its data."""
        if self._keeper is None or self._keeper.stdin is None:
            return
        self._keeper.stdin.close()
        self._keeper.wait(_DOWN_WITHIN)
        self._keeper = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
