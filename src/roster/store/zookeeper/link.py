"""The session that reads and writes for all stores of one event loop that name the same servers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from roster._tls import client_context
from roster.errors import ConfigError, StoreUnavailableError
from roster.store.url import StoreUrl
from roster.store.zookeeper.packets import Reply, Request
from roster.store.zookeeper.session import Session, SessionEndedError
from roster.store.zookeeper.sockets import Settings

# Seconds, where the server grants them: kazoo notices a dead connection within two thirds. No key is bound to this session.
_SESSION_TIMEOUT = 10.0
# Seconds that a client who leaves waits for the server to hear of it.
_GOODBYE = 1.0


def settings_of(url: StoreUrl) -> Settings:
    """Return how to reach the servers.

    Raises:
        ConfigError: half a credential, one that ZooKeeper cannot take, or TLS files that cannot be read.
    """
    credential = None
    if url.username is not None or url.password is not None:
        if not url.username or url.password is None or ":" in url.username:
            raise ConfigError(
                f"{url.display} takes a user, without ':' in its name, and a password: "
                "ROSTER_REGISTRY_USER and ROSTER_REGISTRY_PASSWORD"
            )
        credential = f"{url.username}:{url.password}"
    # Each host has its turn within the time of one request, whatever is wrong with the others.
    turn = url.timeout / len(url.hosts)
    return Settings(url.hosts, credential, client_context(url.tls, url.display) if url.tls else None, turn)


class Link:
    """A session that is made at the first use, and made anew when it has ended.

    Args:
        url: the servers.
        settings: how to reach them.
    """

    def __init__(self, url: StoreUrl, settings: Settings) -> None:
        self._url = url
        self.settings = settings
        self._session: Session | None = None
        self.users = 0

    def session(self) -> Session:
        """Return the session as it is now; it may not be connected yet."""
        if self._session is None or self._session.ended:
            self._session = self.make(_SESSION_TIMEOUT, own_pings=True)
        return self._session

    def make(self, session_timeout: float, *, own_pings: bool) -> Session:
        """Begin another session with the same servers."""
        return Session(
            self._url.display, self.settings, session_timeout, timeout=self._url.timeout, own_pings=own_pings
        )

    async def ask(self, requests: Sequence[Request]) -> list[Reply]:
        """Ask what only reads; again where the connection was lost under it, until the time of one request is over.

        Raises:
            StoreUnavailableError: no answer in time.
            StoreDeniedError: an ACL is against it.
        """
        by = asyncio.get_running_loop().time() + self._url.timeout
        try:
            return await self.session().insist(requests, by)
        except SessionEndedError:
            return await self.session().insist(requests, by)

    async def close(self) -> None:
        """End the session."""
        if self._session is not None:
            session, self._session = self._session, None
            if not session.speaking:
                await session.drop()
                return
            try:
                await session.close(_GOODBYE)
            except StoreUnavailableError:
                pass  # the server forgets it in its time


_links: dict[tuple[asyncio.AbstractEventLoop, StoreUrl], Link] = {}
# A forked child has none of its parent's threads.
os.register_at_fork(after_in_child=_links.clear)


def join(url: StoreUrl, settings: Settings) -> Link:
    """Return the link of this loop to these servers; `leave` when it is not needed any more."""
    for loop, other in [key for key in _links if key[0].is_closed()]:
        del _links[loop, other]
    link = _links.setdefault((asyncio.get_running_loop(), url), Link(url, settings))
    link.users += 1
    return link


async def leave(url: StoreUrl, link: Link) -> None:
    """Leave a link; whoever is the last ends its session."""
    link.users -= 1
    if link.users == 0:
        _links.pop((asyncio.get_running_loop(), url), None)
        await link.close()
