"""Idempotency keys: what one may be, whom it belongs to, and the digest under which nodes and callers speak of it.

A key is its caller's own. It is known by its scope: (namespace of the caller, capability, key). The namespace is what the
command's `source` says: a convention between the members of a team, not a wall between them.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from roster.bus.context import current_command
from roster.errors import ConfigError

MAX_KEY_BYTES = 255
DEFAULT_WINDOW = 3600.0
MAX_WINDOW = 30 * 86400.0
DEFAULT_NAMESPACE = "default"

_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_SOURCE = re.compile(r"/([a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)/.+", re.DOTALL)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def key_fault(key: object) -> str | None:
    """Return what is wrong with an idempotency key, None if nothing is."""
    rule = f"an idempotency key is text of 1 to {MAX_KEY_BYTES} bytes without control characters"
    if not isinstance(key, str):
        return f"{rule}, not {type(key).__name__}"
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        return f"{rule}; this one holds half a surrogate pair"
    if not 1 <= size <= MAX_KEY_BYTES:
        return f"{rule}; this one has {size}"
    if _CONTROL.search(key):
        return f"{rule}; this one holds one"
    return None


def checked_key(key: object) -> str:
    """Return the key.

    Raises:
        ConfigError: it is no key.
    """
    fault = key_fault(key)
    if fault is not None:
        raise ConfigError(fault)
    return str(key)


def scope_of(namespace: str, capability: str, key: str) -> str:
    """Return the digest of a key in its scope, 32 hexadecimal digits."""
    text = json.dumps([namespace, capability, key], ensure_ascii=True, separators=(",", ":"))
    return blake2b(text.encode(), digest_size=16).hexdigest()


def params_digest(params: Mapping[str, Any]) -> bytes:
    """Return a digest of params; the order of fields does not matter."""
    text = json.dumps(params, ensure_ascii=True, separators=(",", ":"), sort_keys=True)
    return blake2b(text.encode(), digest_size=16).digest()


def namespace_of(source: str) -> str:
    """Return the namespace that a `source` belongs to: the first segment of `/{namespace}/...`.

    Anonymous is `default`; a source of any other form is a namespace of its own.
    """
    match = _SOURCE.fullmatch(source)
    if match is not None:
        return match[1]
    return source or DEFAULT_NAMESPACE


def caller_namespace(namespace: str | None = None) -> str:
    """Return the namespace of a caller: the one named, else that of the node that handles here, else the environment's.

    Raises:
        ConfigError: it, or `ROSTER_NAMESPACE`, is no DNS label.
    """
    if namespace is None:
        handling = current_command.get()
        if handling is not None:
            return handling.node.partition("/")[0]
        namespace, what = os.environ.get("ROSTER_NAMESPACE") or DEFAULT_NAMESPACE, "ROSTER_NAMESPACE"
    else:
        what = "the caller's namespace"
    if not _LABEL.fullmatch(namespace):
        raise ConfigError(f"{what} is a DNS label such as `default`, not {namespace[:80]!r}")
    return namespace


def caller_source(kind: str, namespace: str) -> str:
    """Return the `source` of a caller that is no node: `/{namespace}/{kind}-{host}-{pid}-{random}`."""
    return f"/{namespace}/{kind}-{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"


def answers_window(value: float | None = None) -> float:
    """Return the seconds that answers are kept: the argument, else `ROSTER_ANSWERS_WINDOW`, else an hour.

    Raises:
        ConfigError: it is no number of seconds above 0 and up to 30 days.
    """
    what = "answers_window"
    if value is None:
        text = os.environ.get("ROSTER_ANSWERS_WINDOW", "").strip()
        if not text:
            return DEFAULT_WINDOW
        what = "ROSTER_ANSWERS_WINDOW"
        try:
            value = float(text)
        except ValueError:
            raise ConfigError(f"{what} is a number of seconds, such as 3600; it is {text[:40]!r}") from None
    if not 0 < value <= MAX_WINDOW:
        raise ConfigError(f"{what} is above 0 and at most {MAX_WINDOW:g} seconds, not {value:g}")
    return value
