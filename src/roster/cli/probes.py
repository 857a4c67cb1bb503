"""Looks from outside whether a program that knows nothing of Roster is well, as a kubelet does: TCP, HTTP, a file."""

from __future__ import annotations

import asyncio
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from roster.errors import ConfigError, RegistryError, StoreError

if TYPE_CHECKING:
    from roster.cli.output import Output
    from roster.registry import Registration

FORMS = "tcp://HOST:PORT, http://HOST:PORT/PATH, https://HOST:PORT/PATH or file:///PATH"
CONDITION = "Healthy"
# The kubelet's own: periodSeconds, timeoutSeconds, failureThreshold.
EVERY, TIMEOUT, FAILURES = "10s", "1s", 3
_PORTS = {"http": 80, "https": 443}
_MAX_LINE = 8 * 1024
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)(?:[ \r\n]|$)")
_MAX_URL = 2048


@dataclass(frozen=True, slots=True)
class Probe:
    """One thing to look at.

    Attributes:
        scheme: `tcp`, `http`, `https` or `file`.
        host: of the first three.
        port: of the first three.
        path: what to ask for, or the file.
    """

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Probe:
        """Read a check as the command line gives it.

        Raises:
            ConfigError: it is none; the text never repeats a password in it.

        Example:
            >>> Probe.parse("http://127.0.0.1:8080/health")
            Probe(scheme='http', host='127.0.0.1', port=8080, path='/health')
        """
        wrong = ConfigError(f"a check is {FORMS}, without user, password or fragment")
        if len(text) > _MAX_URL or not text.isascii() or not text.isprintable() or " " in text:
            raise wrong
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise wrong from None
        if "@" in parts.netloc or parts.fragment:
            raise wrong
        if parts.scheme == "file":
            path = unquote(parts.path)
            if (
                parts.netloc
                or parts.query
                or not text.startswith("file:///")
                or not path.strip("/")
                or "\0" in path
            ):
                raise wrong
            return cls("file", path=path)
        port = port if port is not None else _PORTS.get(parts.scheme)
        if parts.scheme not in ("tcp", *_PORTS) or not parts.hostname or not port:
            raise wrong
        if parts.scheme == "tcp":
            if parts.path.strip("/") or parts.query:
                raise wrong
            return cls("tcp", parts.hostname, port)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.scheme, parts.hostname, port, path)

    @property
    def display(self) -> str:
        """The check for people."""
        if self.scheme == "file":
            return f"file://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    async def look(self, timeout: float) -> str | None:
        """Look once; return None if all is well, else why not.

        Args:
            timeout: seconds for all of it, however slowly the other side talks.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self._look()
        except TimeoutError:
            return f"{self.display} did not answer within {timeout:g} s"
        except (OSError, ssl.SSLError) as error:
            return f"{self.display}: {error.strerror or error}"
        except asyncio.LimitOverrunError:
            return f"{self.display} does not speak HTTP"

    async def _look(self) -> str | None:
        if self.scheme == "file":
            there = await asyncio.to_thread(Path(self.path).exists)
            return None if there else f"{self.display} is not there"
        reader, writer = await asyncio.open_connection(
            self.host, self.port, ssl=_not_verified() if self.scheme == "https" else None, limit=_MAX_LINE
        )
        try:
            return None if self.scheme == "tcp" else await self._ask(reader, writer)
        finally:
            # Not closed in good order: a peer that is silent would hold that up.
            writer.transport.abort()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str | None:
        host = f"[{self.host}]" if ":" in self.host else self.host
        writer.write(
            f"GET {self.path} HTTP/1.1\r\nHost: {host}:{self.port}\r\nUser-Agent: roster-check\r\n"
            "Accept: */*\r\nConnection: close\r\n\r\n".encode()
        )
        await writer.drain()
        try:
            line = await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError as error:
            line = error.partial
        found = _STATUS_LINE.match(line)
        if found is None:
            return f"{self.display} does not speak HTTP"
        # What a kubelet takes for well; it does not follow to other hosts either.
        return None if 200 <= int(found[1]) < 400 else f"{self.display} answered {int(found[1])}"


def _not_verified() -> ssl.SSLContext:
    """Return a context that asks whether somebody answers, not who it is: its certificate is for other names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@dataclass(frozen=True, slots=True)
class Checks:
    """What to look at, and how often.

    Attributes:
        probes: all of them have to be well.
        every: seconds between two looks.
        timeout: seconds that one look may take.
        failures: how many looks in a row have to fail until the node takes no more work; one good look restores it.
    """

    probes: tuple[Probe, ...]
    every: float
    timeout: float
    failures: int

    async def look(self) -> str | None:
        """Look at all of them at once; return why the first that is not well is not."""
        said = await asyncio.gather(*(probe.look(self.timeout) for probe in self.probes))
        return next((why for why in said if why is not None), None)

    async def keep_looking(self, registration: Registration, out: Output) -> None:
        """Have the registration be `ready` while all is well, else `starting`. Ends cancelled, or when it leaves."""
        failed, last = 0, ""
        while True:
            why = await self.look()
            failed = failed + 1 if why is not None else 0
            if registration.state == "draining":
                return  # it leaves; nothing that is found now brings it back
            serving = registration.state in ("ready", "busy")
            try:
                if why is None and not serving:
                    registration.set_condition(CONDITION, None)
                    await registration.set_state("ready")
                    out.note(f"{registration.key} is ready: its checks are good")
                elif why is not None and (failed >= self.failures or not serving):
                    registration.set_condition(CONDITION, "False", "CheckFailed", why)
                    if serving:
                        await registration.set_state("starting")
                    if serving or why != last:
                        out.warning(f"{registration.key} takes no work: {why}")
            except StoreError as error:
                out.warning(str(error))  # it is written when the store is back
            except RegistryError:
                return  # it has ended
            last = why or ""
            await asyncio.sleep(self.every)
