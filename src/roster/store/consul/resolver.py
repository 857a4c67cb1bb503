"""Host names for aiohttp, looked up on threads that hold nobody up."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable

from aiohttp.abc import AbstractResolver, ResolveResult

_AS_NUMBERS = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


class Resolver(AbstractResolver):
    """Looks names up as the system does.

    aiohttp's own does so on the loop's pool of threads, and the end of a loop waits for that (`asyncio.run`), like the
    end of the process: 10 s and more, with a name server that says nothing, for whoever had given it 2.
    """

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return await _aside(lambda: _look_up(host, port, family))

    async def close(self) -> None:
        pass  # a thread that looks up ends behind that


def _look_up(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    found: list[ResolveResult] = []
    for kind, _, protocol, _, address in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, family=family, flags=socket.AI_ADDRCONFIG
    ):
        # With the zone of a link-local address, which stands apart in `address`.
        number, _ = socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
        found.append(
            {
                "hostname": host,
                "host": number,
                "port": port,
                "family": kind,
                "proto": protocol,
                "flags": _AS_NUMBERS,
            }
        )
    return found


async def _aside(call: Callable[[], list[ResolveResult]]) -> list[ResolveResult]:
    """Return what a call returns that runs on a daemon thread of its own; who is cancelled waits no longer."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[list[ResolveResult]] = loop.create_future()

    def settle(found: list[ResolveResult], error: Exception | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(found)
        else:
            future.set_exception(error)

    def run() -> None:
        found: list[ResolveResult] = []
        fault = None
        try:
            found = call()
        except Exception as error:  # noqa: BLE001 - raised where it is awaited
            fault = error
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
            loop.call_soon_threadsafe(settle, found, fault)

    threading.Thread(target=run, name="roster-lookup", daemon=True).start()
    return await future
