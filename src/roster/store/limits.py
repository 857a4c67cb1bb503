"""The checks that every engine makes of keys, values, TTLs and transactions before it touches anything."""

from __future__ import annotations

import math
from collections.abc import Sequence

from roster.errors import ConflictError, LimitError
from roster.store.base import MAX_KEY_BYTES, MAX_TTL, MAX_VALUE_BYTES, MIN_TTL, Check, Op, Put

MAX_OPS = 64


def _bytes_of(text: str, what: str) -> bytes:
    if not isinstance(text, str):
        raise LimitError(f"{what} is a string, not {type(text).__name__}")
    try:
        raw = text.encode()
    except UnicodeEncodeError as error:
        raise LimitError(f"{what} {text!r} cannot be written in UTF-8") from error
    if len(raw) > MAX_KEY_BYTES:
        raise LimitError(f"{what} has {len(raw)} bytes; the limit is {MAX_KEY_BYTES}")
    if b"\0" in raw:
        raise LimitError(f"{what} {text!r} holds a NUL")
    return raw


def check_key(key: str) -> None:
    """Raise `LimitError` unless `key` is a path that every engine can hold."""
    _bytes_of(key, "a key")
    if not key.startswith("/"):
        raise LimitError(f"the key {key!r} does not begin with '/'")


def check_prefix(prefix: str) -> None:
    """Raise `LimitError` unless `prefix` could begin a key; the empty prefix means all keys."""
    _bytes_of(prefix, "a prefix")


def check_value(key: str, value: bytes) -> None:
    """Raise `LimitError` unless `value` is bytes within the limit."""
    if not isinstance(value, bytes):
        raise LimitError(f"the value of {key!r} is bytes, not {type(value).__name__}")
    if len(value) > MAX_VALUE_BYTES:
        raise LimitError(f"the value of {key!r} has {len(value)} bytes; the limit is {MAX_VALUE_BYTES}")


def check_ttl(ttl: float) -> None:
    """Raise `LimitError` unless `ttl` seconds are within the limits."""
    if not math.isfinite(ttl) or not MIN_TTL <= ttl <= MAX_TTL:
        raise LimitError(f"a lease lives between {MIN_TTL:g} and {MAX_TTL:g} seconds, not {ttl!r}")


def check_limit(limit: int) -> None:
    """Raise `LimitError` for a negative page size."""
    if limit < 0:
        raise LimitError(f"the limit of a list is 0 (all) or more, not {limit}")


def check_from_revision(revision: int) -> None:
    """Raise `LimitError` for a watch from before the first revision."""
    if revision < 1:
        raise LimitError(f"a watch begins at revision 1 or later, not {revision}")


def check_transaction(checks: Sequence[Check], ops: Sequence[Op]) -> None:
    """Raise `LimitError` unless the transaction is small, names each key once and keeps the limits."""
    if len(ops) > MAX_OPS or len(checks) > MAX_OPS:
        raise LimitError(f"a transaction has at most {MAX_OPS} operations and as many checks")
    for check in checks:
        check_key(check.key)
        if check.mod_revision < 0:
            raise LimitError(f"the revision of a condition is 0 or more, not {check.mod_revision}")
    seen = set()
    for op in ops:
        check_key(op.key)
        if op.key in seen:
            raise LimitError(f"a transaction names the key {op.key!r} twice")
        seen.add(op.key)
        if isinstance(op, Put):
            check_value(op.key, op.value)


def conflict(key: str, wanted: int, found: int) -> ConflictError:
    """Return the error for a condition that did not hold."""
    if wanted == 0:
        text = f"{key!r} exists already (revision {found})"
    elif found == 0:
        text = f"{key!r} is absent, not at revision {wanted}"
    else:
        text = f"{key!r} is at revision {found}, not {wanted}"
    return ConflictError(f"{text}: read it again and decide anew", key, found)
