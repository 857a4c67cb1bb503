"""Sessions of browsers: a cookie in place of a token, which no script can read."""

from __future__ import annotations

import hashlib
import secrets
from http.cookies import CookieError, SimpleCookie

from roster._clock import boottime

COOKIE = "roster_session"
LIFETIME = 12 * 3600.0
_MOST = 10_000


class Sessions:
    """Open sessions, each of one token. They end with the process; a token that is out of force ends its own."""

    def __init__(self) -> None:
        # By the digest of the cookie: what is in memory opens nothing.
        self._open: dict[str, tuple[str, float]] = {}

    def begin(self, digest: str) -> str:
        """Begin a session of the token with this digest; return the cookie's value."""
        now = boottime()
        if len(self._open) >= _MOST:
            self._open = {key: one for key, one in self._open.items() if one[1] > now}
            while len(self._open) >= _MOST:
                del self._open[next(iter(self._open))]
        value = secrets.token_urlsafe(32)
        self._open[_digest(value)] = (digest, now + LIFETIME)
        return value

    def find(self, value: str) -> str | None:
        """Return the digest of the token that a session belongs to; None if there is no such session any more."""
        found = self._open.get(_digest(value))
        return found[0] if found is not None and found[1] > boottime() else None

    def end(self, value: str) -> None:
        """End a session."""
        self._open.pop(_digest(value), None)


def read_cookie(header: str) -> str | None:
    """Return the session's cookie of a header `Cookie`."""
    if COOKIE not in header:
        return None
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return None
    return found.value if found is not None else None


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode("utf-8", "replace")).hexdigest()
