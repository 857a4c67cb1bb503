"""Ports of this machine's loopback, chosen by the kernel and kept for a server that comes and goes."""

from __future__ import annotations

import socket
import sys

LOOPBACK = "127.0.0.1"


class Ports:
    """Ports by name.

    On Linux each is held by a socket that is bound and does not listen. A server that sets SO_REUSEADDR, as Go and Java do,
    may listen there all the same, and the kernel gives the port to nobody else while the server is down: neither to another
    test's server, nor as the near end of a connection (a client that tries a dead server again and again could otherwise
    meet itself).
    """

    def __init__(self, *names: str) -> None:
        self._held: list[socket.socket] = []
        self._numbers: dict[str, int] = {}
        for name in names:
            self._numbers[name] = self._choose()

    def __getitem__(self, name: str) -> int:
        return self._numbers[name]

    def release(self) -> None:
        """Let go of them all."""
        for each in self._held:
            each.close()
        self._held.clear()

    def _choose(self) -> int:
        while True:
            holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind((LOOPBACK, 0))
            number: int = holder.getsockname()[1]
            if sys.platform == "linux":
                self._held.append(holder)
            else:
                holder.close()
            # Consul talks UDP on some of them as well.
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
                try:
                    datagrams.bind((LOOPBACK, number))
                except OSError:
                    continue
            return number
