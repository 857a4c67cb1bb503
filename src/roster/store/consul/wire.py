"""Requests to Consul's HTTP API: each with a deadline, with failover, and with one clear line when it fails."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlencode
from weakref import WeakKeyDictionary

import aiohttp
from yarl import URL

from roster._clock import boottime
from roster._text import safe
from roster._tls import client_context
from roster.errors import LimitError, StoreDeniedError, StoreUnavailableError
from roster.store.consul.resolver import Resolver
from roster.store.url import StoreUrl

# An agent serves one address at most 200 connections at once and resets what is beyond
# (https://developer.hashicorp.com/consul/docs/reference/agent/configuration-file/general, http_max_conns_per_client);
# a look that blocks keeps its connection. What exceeds our own limits waits for its turn.
REQUESTS = 32
LOOKS = 64
# An idle connection counts like any other: hundreds of processes on one machine must not keep theirs.
IDLE = 3.0
# A listing of 100 000 nodes is a quarter of this.
MAX_ANSWER = 1024 * 1024 * 1024
# A token that may do nothing here; the agent says "Permission denied", "ACL not found" and more.
FORBIDDEN = (401, 403)


@dataclass(frozen=True, slots=True)
class Answer:
    """What Consul answered.

    Attributes:
        status: the HTTP status.
        body: the bytes.
        index: Consul's index, None where it tells none.
        host: which of the hosts answered, by number.
        where: the URL without secrets.
    """

    status: int
    body: bytes
    index: int | None
    host: int
    where: str

    def json(self) -> Any:
        """Return the decoded body.

        Raises:
            StoreUnavailableError: it is no JSON.
        """
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise unreadable(self.where) from error

    @property
    def text(self) -> str:
        """The beginning of the body as one line that is safe to show."""
        return safe(self.body[:200].decode(errors="replace").strip())


class Wire:
    """Connections to the hosts of one URL, shared by the stores of one event loop.

    Requests go to one host until it fails, then to the next. A request is sent to another host only if it was not sent to
    the first, or if it does no harm twice.

    Args:
        url: hosts, token, TLS files and the seconds that a request may take.
    """

    def __init__(self, url: StoreUrl) -> None:
        self._url = url
        self._scheme = "https" if url.tls else "http"
        self._current = 0
        self._context = client_context(url.tls, url.display) if url.tls else None
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._closed = False

    async def ask(
        self,
        method: Literal["GET", "PUT"],
        path: str,
        query: Mapping[str, str | int] | None = None,
        *,
        body: bytes | None = None,
        at: int | None = None,
        again: bool | None = None,
        blocks: float = 0.0,
        expect: tuple[int, ...] = (200,),
        what: str = "",
    ) -> Answer:
        """Send a request and return its answer.

        Args:
            method: of HTTP.
            path: percent-encoded.
            query: parameters.
            body: sent as it is.
            at: the only host to ask, by number; None: whichever answers.
            again: whether it does no harm twice; None: reads do not.
            blocks: seconds that Consul may take longer, because it was asked to wait.
            expect: statuses that are answers; all others are errors.
            what: what the token would need, for the error where it may not.

        Raises:
            StoreDeniedError: the token may not.
            LimitError: Consul takes no body of this size.
            StoreUnavailableError: no host answers in time, or what answers is an error.
        """
        again = method == "GET" if again is None else again
        target = path + ("?" + urlencode(query) if query else "")
        until = boottime() + self._url.timeout + blocks
        turns = [at] if at is not None else self._turns()
        failure: StoreUnavailableError | None = None
        # A connection that was kept may have been cut meanwhile, which says nothing of the host: once more.
        for host in turns * 2 if again else turns:
            if self._closed or (failure is not None and boottime() >= until):
                break
            try:
                answer = await self._send(method, target, body, host, until, blocks)
            except _FailedError as error:
                self._leave(host)
                failure = StoreUnavailableError(f"{self._url.display}: {error}")
                if error.sent and not again:
                    break
                continue
            if answer.status in expect:
                return answer
            if answer.status >= 500:
                self._leave(host)
            raise self._refusal(answer, what)
        raise failure or StoreUnavailableError(f"this client of {self._url.display} is closed: open another")

    def _turns(self) -> list[int]:
        count = len(self._url.hosts)
        return [(self._current + number) % count for number in range(count)]

    def _leave(self, host: int) -> None:
        if self._current == host:
            self._current = (host + 1) % len(self._url.hosts)

    async def _send(
        self, method: str, target: str, body: bytes | None, host: int, until: float, blocks: float
    ) -> Answer:
        name, port = self._url.hosts[host]
        where = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
        timeout = aiohttp.ClientTimeout(total=max(0.001, until - boottime()), sock_connect=self._connecting())
        try:
            async with self._session(blocks > 0).request(
                method,
                URL(f"{self._scheme}://{where}{target}", encoded=True),
                data=body,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                index = response.headers.get("X-Consul-Index", "")
                found = int(index) if index.isascii() and index.isdigit() and len(index) < 20 else 0
                return Answer(
                    response.status, await _read(response, where), found or None, host, self._url.display
                )
        except aiohttp.ClientConnectorCertificateError as error:
            fault = getattr(error.certificate_error, "verify_message", "") or "not valid for this name"
            raise _FailedError(
                f"the certificate of {where} is not trusted ({safe(str(fault))}): name its authority by ?ca=FILE",
                sent=False,
            ) from error
        except aiohttp.ClientConnectorSSLError as error:
            raise _FailedError(
                f"no TLS with {where} ({_reason(error)}): is HTTPS served there?", sent=False
            ) from error
        except (aiohttp.ClientConnectorDNSError, aiohttp.InvalidURL, UnicodeError) as error:
            raise _FailedError(f"the host {safe(name)} is unknown: check its name", sent=False) from error
        except aiohttp.ClientConnectorError as error:
            raise _FailedError(
                f"cannot connect to {where} ({_reason(error)}): is Consul running there?", sent=False
            ) from error
        except aiohttp.ConnectionTimeoutError as error:
            raise _FailedError(
                f"no connection to {where} in time: check host, port and firewall", sent=False
            ) from error
        except TimeoutError as error:
            raise _FailedError(
                f"{where} did not answer within {self._url.timeout + blocks:.0f} s", sent=True
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            said = _reason(error)
            hint = (
                ": it takes only clients with a certificate: ?cert=FILE&key=FILE"
                if "CERTIFICATE" in said
                else ""
            )
            raise _FailedError(f"{where} broke the connection off ({said}){hint}", sent=True) from error

    def _connecting(self) -> float:
        return self._url.timeout / len(self._url.hosts)

    def _refusal(self, answer: Answer, what: str) -> Exception:
        where = self._url.display
        if answer.status in FORBIDDEN or "Permission denied" in answer.text or "ACL not found" in answer.text:
            return denied(where, answer.text, what)
        if answer.status == 413:
            return LimitError(f"{where}: too large for Consul: {answer.text}")
        if "HTTPS server" in answer.text:
            return StoreUnavailableError(f"{where}: that port serves HTTPS: write consuls://")
        return StoreUnavailableError(
            f"{where}: Consul answered {answer.status}: {answer.text or 'nothing more'}"
        )

    def _session(self, blocks: bool) -> aiohttp.ClientSession:
        session = self._sessions.get(blocks)
        if session is None:
            # To pack a listing of 1.4 MB took an agent 50 ms, to send it as it is 5 ms.
            headers = {"Accept-Encoding": "identity"}
            if self._url.password:
                headers["X-Consul-Token"] = self._url.password
            session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=LOOKS if blocks else REQUESTS,
                    keepalive_timeout=IDLE,
                    ssl=self._context or True,
                    resolver=Resolver(),
                ),
                headers=headers,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
            # A PUT that was cut off is sent again by aiohttp; a conditional write that was done then contradicts itself.
            session._retry_connection = False
            self._sessions[blocks] = session
        return session

    async def close(self) -> None:
        """Close the connections."""
        self._closed = True
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()


class _FailedError(Exception):
    """One host failed; `sent` says whether it may have got the request."""

    def __init__(self, text: str, *, sent: bool) -> None:
        super().__init__(text)
        self.sent = sent


def unreadable(where: str) -> StoreUnavailableError:
    """Return the error for an answer that Consul would not give."""
    return StoreUnavailableError(f"{where}: the answer cannot be read: is it Consul's HTTP API?")


def denied(where: str, said: str, what: str) -> StoreDeniedError:
    """Return the error for a token that may not do what was asked."""
    needs = f" (this takes {what})" if what else ""
    return StoreDeniedError(
        f"{where}: Consul refuses the token: {said or 'permission denied'}{needs}: "
        "check CONSUL_HTTP_TOKEN and the token's policies"
    )


async def _read(response: aiohttp.ClientResponse, where: str) -> bytes:
    chunks, size = [], 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > MAX_ANSWER:
            raise _FailedError(f"{where} sends more than {MAX_ANSWER >> 20} MiB: is it Consul?", sent=True)
        chunks.append(chunk)
    return b"".join(chunks)


def _reason(error: BaseException) -> str:
    inner = getattr(error, "os_error", None) or error
    said, number = getattr(inner, "strerror", None), getattr(inner, "errno", None)
    # aiohttp and asyncio put words of their own into some; those of OpenSSL are the better ones.
    if isinstance(number, int) and number > 0 and "SSL" not in str(said):
        said = os.strerror(number)
    return safe(str(said or inner or type(inner).__name__))[:160]


# -- sharing ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Shared:
    wire: Wire
    users: int = 0


_Identity = tuple[object, ...]
_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Identity, _Shared]] = WeakKeyDictionary()
_lock = threading.Lock()


def _identity(url: StoreUrl) -> _Identity:
    return (url.scheme, url.hosts, url.password, url.tls, url.timeout)


def join(url: StoreUrl) -> Wire:
    """Return the connections of this URL in the running loop; each call is matched by a `leave`."""
    loop = asyncio.get_running_loop()
    with _lock:
        of_loop = _shared.setdefault(loop, {})
        shared = of_loop.get(_identity(url))
        if shared is None:
            shared = of_loop[_identity(url)] = _Shared(Wire(url))
        shared.users += 1
        return shared.wire


async def leave(url: StoreUrl) -> None:
    """Let go of the connections; the last one out closes them."""
    loop = asyncio.get_running_loop()
    with _lock:
        of_loop = _shared.get(loop, {})
        shared = of_loop.get(_identity(url))
        if shared is None:
            return
        shared.users -= 1
        if shared.users:
            return
        del of_loop[_identity(url)]
    await shared.wire.close()
