"""Opens a connection to the first broker that takes it, and says in one line why none does."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from typing import Any

from roster.bus.amqp.connection import Connection
from roster.bus.amqp.faults import LostError, RefusedError
from roster.bus.amqp.settings import Settings


async def connect(settings: Settings, name: str, timeout: float) -> Connection:
    """Open a connection to the first broker of the settings that takes it.

    Args:
        name: shown in the broker's list of connections.
        timeout: seconds, for all of it.

    Raises:
        LostError: none does; of several the last one's reason.
        RefusedError: the broker does not let us in.
    """
    why: LostError = LostError(f"no answer within {timeout:g} s")
    deadline = asyncio.get_running_loop().time() + timeout
    left = len(settings.hosts)
    for host, port in settings.hosts:
        share = (deadline - asyncio.get_running_loop().time()) / left
        left -= 1
        try:
            return await _connect(settings, host, port, name, max(0.1, share))
        except RefusedError:
            raise
        except LostError as error:
            why = error
    raise why


async def _connect(settings: Settings, host: str, port: int, name: str, timeout: float) -> Connection:
    loop = asyncio.get_running_loop()
    connection: Connection | None = None
    tls: dict[str, Any] = {"ssl": settings.tls, "server_hostname": host} if settings.tls else {}
    try:
        async with asyncio.timeout(timeout):
            _, connection = await loop.create_connection(
                lambda: Connection(settings, name), host, port, **tls
            )
            await connection.opened
    except TimeoutError:
        if connection is not None:
            connection.abort("it did not answer")
        raise LostError(f"no answer within {timeout:g} s") from None
    except ssl.SSLError as error:
        raise LostError(f"TLS failed: {error.reason or error}") from error
    except OSError as error:
        raise LostError(f"{host}: {_said(error)}") from error
    except asyncio.CancelledError:
        if connection is not None:
            connection.abort("it is not wanted any more")
        raise
    return connection


def _said(error: OSError) -> str:
    # asyncio puts the address in the place of the reason; a name that is not known has no errno of the system.
    if error.errno is None or isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    return os.strerror(error.errno)
