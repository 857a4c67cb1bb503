"""Threads and sockets under kazoo: one thread a session, tries to connect that end in time, and why the last one failed."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from typing import Any, NamedTuple

from kazoo.handlers.threading import SequentialThreadingHandler

# Seconds for one step of a try to connect; twice as many after each that was too slow. A server that comes up swallows some
# requests to connect (3.8.0: those of 20 ms, at every other start), for which kazoo would wait as long as the session lives.
_PATIENCE = 1.0


class Settings(NamedTuple):
    """How to reach the servers.

    Attributes:
        hosts: `(host, port)` of each.
        credential: `user:password`, or None.
        tls: the context for TLS, or None.
        connect_timeout: seconds for one step of a try to connect, at most.
    """

    hosts: tuple[tuple[str, int], ...]
    credential: str | None
    tls: ssl.SSLContext | None
    connect_timeout: float


class Handler(SequentialThreadingHandler):  # type: ignore[misc]  # kazoo has no types
    """kazoo's ways to threads and sockets: no threads but that of the connection, and a reason for each failure."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self._over = False
        self.fault = ""
        self.explained = False
        self.peer = ""
        self.looking_up = False
        self.patience = 0.0
        self.reached()

    def reached(self) -> None:
        """Begin anew with the first patience: a server has answered."""
        self.fault = ""
        self.patience = min(_PATIENCE, self._settings.connect_timeout)

    def too_slow(self) -> None:
        """Have more patience with the next try."""
        self.patience = min(2 * self.patience, self._settings.connect_timeout)

    def start(self) -> None:
        pass  # results are called back at once, on the thread that read them, while `running` is false

    def stop(self) -> None:
        pass

    def dispatch_callback(self, callback: Any) -> None:
        callback.func(*callback.args)

    def spawn(self, func: Any, *args: Any, **named: Any) -> threading.Thread:
        thread = threading.Thread(target=func, args=args, kwargs=named, name="roster-zookeeper", daemon=True)
        thread.start()
        return thread

    def select(self, rlist: Any, wlist: Any, xlist: Any, timeout: float | None = None) -> Any:
        # kazoo makes an epoll for each look, and does not look into what TLS has decrypted already: of two answers in one
        # record the second would wait for the third.
        decrypted = [each for each in rlist if isinstance(each, ssl.SSLSocket) and each.pending()]
        poll = select.poll()
        names = {each.fileno(): each for each in (*rlist, *wlist)}
        for each in rlist:
            poll.register(each, select.POLLIN)
        for each in wlist:
            poll.register(each, select.POLLOUT)
        wait = 0 if decrypted else None if timeout is None else max(0, int(timeout * 1000) + 1)
        ready = [names[number] for number, _ in poll.poll(wait)]
        readable = decrypted + [each for each in ready if each in rlist and each not in decrypted]
        return readable, [each for each in ready if each in wlist], []

    def create_connection(self, address: Any, hostname: str = "", **_: Any) -> socket.socket:
        """Connect with the patience of this try, and keep hold of the socket from its first moment."""
        family, kind, protocol, _name, where = socket.getaddrinfo(
            address[0], address[1], type=socket.SOCK_STREAM
        )[0]
        self.peer = f"{hostname}:{address[1]}"
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.settimeout(self.patience)
            with self._lock:
                if self._over:
                    raise ConnectionAbortedError("given up")
                self._socket = made
            made.connect(where)
            if self._settings.tls is not None:
                made = self._settings.tls.wrap_socket(made, server_hostname=hostname)
                with self._lock:
                    self._socket = made
        except OSError as error:
            # What is hung up on at once may be found here or in the first exchange: `_connect` has the words for both.
            if not isinstance(error, ConnectionResetError | BrokenPipeError):
                self.fault = f"{self.peer}: {_reason(error)}"
                self.explained = True
            if isinstance(error, TimeoutError):
                self.too_slow()
            made.close()
            raise
        except BaseException:
            made.close()
            raise
        return made

    def end(self) -> None:
        """Cut the connection, and make no other."""
        with self._lock:
            self._over = True
        self.cut()

    def cut(self) -> None:
        """End the connection, or the try to connect, from any thread."""
        with self._lock:
            if self._socket is None or self._socket.fileno() < 0:
                return
            try:
                # Not SSLSocket's own, which would take the state of TLS away under the thread that reads.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
            except OSError:
                pass  # not connected any more


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not to be trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or error})"
    if isinstance(error, TimeoutError):
        return "no connection in time"
    return (error.strerror or str(error)).lower()
