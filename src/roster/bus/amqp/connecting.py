"""Opens a connection to the first broker that takes it, and says in one line why none does."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from typing import Any
from urllib.parse import quote

import aiormq

from roster._version import __version__
from roster.bus.amqp.answers import fault_of
from roster.bus.amqp.connection import AFTERMATH, Connection
from roster.bus.amqp.faults import ACCESS_REFUSED, LostError, RefusedError
from roster.bus.amqp.settings import Settings

# What the library has to say is said here, in the bus's words.
logging.getLogger("aiormq").addHandler(logging.NullHandler())


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
    if not settings.password:
        # The library would try `guest` in its place.
        raise RefusedError(ACCESS_REFUSED, "login was refused: there is no password")
    connection = Connection(settings)
    client = _client(settings, host, port, name, connection)
    opening = asyncio.ensure_future(client.connect())
    opening.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        # The library's own end of an attempt waits for a peer that may be silent: the socket is taken from it first.
        await asyncio.wait([opening], timeout=timeout)
        if not opening.done():
            raise LostError(f"no answer within {timeout:.3g} s")
        opening.result()
    except BaseException as error:
        why = connection.fault or _reason(host, error)
        connection.end(why)
        opening.cancel()
        await asyncio.wait([opening], timeout=AFTERMATH)
        if isinstance(error, Exception):
            raise why from error
        raise
    client.url = client.url.with_user(None)  # which it logs
    connection.opened(client)
    return connection


def _client(settings: Settings, host: str, port: int, name: str, connection: Connection) -> aiormq.Connection:
    who = f"{quote(settings.username, safe='')}:{quote(settings.password, safe='')}"
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    client = _Client(
        f"amqp://{who}@{where}/?heartbeat={settings.heartbeat}",
        settings.heartbeat,
        transport_factory=_Streams(connection, host, port, settings.tls),
        client_properties={
            "product": "Roster",
            "version": __version__,
            "connection_name": f"{name} {socket.gethostname()}/{os.getpid()}",
        },
    )
    client.vhost = settings.vhost  # as it is, whatever a URL would make of it
    return client


class _Client(aiormq.Connection):
    """The library's connection, as this bus needs it."""

    # Of a full queue it drops its own answers to the broker; the frames that go this way are few.
    FRAME_BUFFER_SIZE = 0

    def __init__(self, url: str, heartbeat: int, **options: Any) -> None:
        # It looks every half heartbeat whether the broker has been silent for longer than (heartbeat + 1) times this.
        self.HEARTBEAT_GRACE_MULTIPLIER = 1.5 * heartbeat / (heartbeat + 1)  # type: ignore[assignment] # its own is 3
        super().__init__(url, **options)


class _Streams(aiormq.TransportFactory):
    """Opens the socket."""

    def __init__(self, connection: Connection, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        self._connection = connection
        self._where = host, port
        self._tls: dict[str, Any] = {"ssl": tls, "server_hostname": host} if tls else {}

    async def create(self, *_: Any, **__: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop, reader = asyncio.get_running_loop(), self._connection.intake
        transport, protocol = await loop.create_connection(
            lambda: asyncio.StreamReaderProtocol(reader, loop=loop), *self._where, **self._tls
        )
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        self._connection.reached(writer)
        return reader, writer


def _reason(host: str, error: BaseException) -> LostError:
    if isinstance(error, LostError):
        return error
    if isinstance(error, ssl.SSLCertVerificationError):
        return LostError(
            f"its certificate is not to be trusted ({error.verify_message}): name its authority by ?ca=FILE or ROSTER_TLS_CA"
        )
    if isinstance(error, ssl.SSLError):
        return LostError(f"TLS failed ({error.reason or error}): is TLS served on this port?")
    if isinstance(error, aiormq.AuthenticationError):
        return LostError("the broker takes no password (SASL PLAIN)")
    if isinstance(error, OSError) and not isinstance(error, aiormq.AMQPError):
        return LostError(f"{host}: {_said(error)}")
    return fault_of(error)


def _said(error: OSError) -> str:
    # asyncio puts the address in the place of the reason; a name that is not known has no errno of the system.
    if error.errno is None or isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    return os.strerror(error.errno)
