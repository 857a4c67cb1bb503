"""One server of an etcd cluster: a gRPC channel of our own options to one address."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from roster._address import Tls
from roster.store.etcd.failures import FailedError, Failure
from roster.store.etcd.messages import Method

# Read by gRPC when it is imported: its core would write each failed handshake to stderr, and our errors say it once.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc.aio  # type: ignore[import-untyped]  # grpcio ships no types

Metadata = Sequence[tuple[str, str]]

# A server that is back is found again within about this many milliseconds; gRPC's own pauses grow up to two minutes.
RECONNECT_MS = 1000


def credentials(tls: Tls) -> Any:
    """Read the files of a connection with TLS.

    Raises:
        OSError: one of them cannot be read, or is not what it should be, or certificate and key are not a pair.
    """
    # gRPC would tell of files that are wrong as if the server were out of reach.
    judge = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    roots = _system_roots()
    if tls.ca is not None:
        judge.load_verify_locations(tls.ca)
        roots = tls.ca.read_bytes()
    if tls.cert is None or tls.key is None:
        return grpc.ssl_channel_credentials(roots)
    judge.load_cert_chain(tls.cert, tls.key, password="")  # else it would ask the terminal for one
    return grpc.ssl_channel_credentials(roots, tls.key.read_bytes(), tls.cert.read_bytes())


def _system_roots() -> bytes | None:
    """Return the authorities that this system trusts (gRPC would take a list of its own), None if it has no list."""
    places = ssl.get_default_verify_paths()
    if places.cafile:
        return Path(places.cafile).read_bytes()
    files = sorted(Path(places.capath).glob("*.[0-9]")) if places.capath else []
    return b"\n".join(file.read_bytes() for file in files) or None


def _failed(error: BaseException) -> FailedError:
    """Return what went wrong, in one class; gRPC has several.

    Raises:
        asyncio.CancelledError: the task itself is being cancelled.
    """
    if isinstance(error, grpc.aio.AioRpcError):
        return FailedError(Failure(error.code().name, error.details() or ""))
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
        raise error
    # gRPC raises CancelledError also when the server says so and when the channel was closed: nobody cancelled the task.
    return FailedError(Failure.ENDED)


# What gRPC raises: its own error, a misuse when the channel was closed meanwhile, a stream that has ended, see above.
_ERRORS = (
    grpc.aio.AioRpcError,
    grpc.aio.UsageError,
    asyncio.InvalidStateError,
    asyncio.CancelledError,
)


class Stream:
    """Requests one way and answers the other."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def write(self, request: Any) -> None:
        """Send a request.

        Raises:
            FailedError: the stream is over.
        """
        try:
            await self._call.write(request)
        except _ERRORS as error:
            raise _failed(error) from None

    async def read(self) -> Any:
        """Return the next answer. Cancelling this ends the stream.

        Raises:
            FailedError: the stream is over.
        """
        try:
            answer = await self._call.read()
        except _ERRORS as error:
            raise _failed(error) from None
        if answer is grpc.aio.EOF:
            raise FailedError(Failure.ENDED)
        if answer is None:  # gRPC's word for what could not be read
            raise FailedError(Failure.GARBLED)
        return answer

    def cancel(self) -> None:
        """End it."""
        self._call.cancel()


class Endpoint:
    """The channel to one address. It connects at the first call, and again by itself.

    Args:
        host: name or address.
        port: its port.
        secure: from `credentials`, None without TLS.
        timeout: seconds for establishing a connection.
    """

    def __init__(self, host: str, port: int, secure: Any | None, timeout: float) -> None:
        self.host = host
        self.name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.version = ""
        options = (
            # A page of a listing, or a revision that a watch brings, may be larger than gRPC's 4 MiB.
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", int(timeout * 1000)),
            ("grpc.max_reconnect_backoff_ms", RECONNECT_MS),
            # Without the last of the three a frozen server went unnoticed for 45 s (grpcio 1.85.1). etcd closes
            # connections that ping more often than every 5 s.
            ("grpc.keepalive_time_ms", 10_000),
            ("grpc.keepalive_timeout_ms", 5_000),
            ("grpc.http2.ping_timeout_ms", 5_000),
            ("grpc.http2.max_pings_without_data", 0),
            # Connections are otherwise shared within the process, with whatever state another client left them in.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.service_config_disable_resolution", 1),
            ("grpc.enable_http_proxy", 0),
        )
        target = f"dns:///{self.name}"
        if secure is None:
            self._channel = grpc.aio.insecure_channel(target, options=options)
        else:
            self._channel = grpc.aio.secure_channel(target, secure, options=options)
        self._unary: dict[str, Any] = {}

    async def call(self, method: Method, request: Any, timeout: float, metadata: Metadata) -> Any:
        """Ask once.

        Raises:
            FailedError: whatever went wrong, within `timeout` seconds.
        """
        ask = self._unary.get(method.path)
        if ask is None:
            ask = self._unary[method.path] = self._channel.unary_unary(method.path, *_codec(method))
        try:
            answer = await ask(request, timeout=timeout, metadata=metadata)
        except _ERRORS as error:
            raise _failed(error) from None
        if answer is None:  # gRPC's word for what could not be read
            raise FailedError(Failure.GARBLED)
        return answer

    def stream(self, method: Method, metadata: Metadata) -> Stream:
        """Open a stream."""
        return Stream(self._channel.stream_stream(method.path, *_codec(method))(metadata=metadata))

    async def close(self) -> None:
        """End the connection; what is under way on it is cancelled."""
        await self._channel.close()


def _codec(method: Method) -> tuple[Any, Any]:
    return method.request.SerializeToString, method.response.FromString
