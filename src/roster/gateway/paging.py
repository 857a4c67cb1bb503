"""Pages of a sorted list: where the next one begins travels in an opaque token."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import TypeVar

from roster.gateway.encoding import encode
from roster.gateway.problems import Problem

T = TypeVar("T")

_MAX_TOKEN = 2000


def page_token(after: str, resume: str) -> str:
    """Return the token of the page that begins behind the item `after`."""
    return base64.urlsafe_b64encode(encode([after, resume])).decode().rstrip("=")


def read_page(token: str | None) -> tuple[str | None, str | None]:
    """Return behind which item the page begins, and the place of the first page; None, None for the first one.

    Raises:
        Problem: it is no token of ours.
    """
    if token is None:
        return None, None
    try:
        if len(token) > _MAX_TOKEN:
            raise ValueError
        after, resume = json.loads(
            base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        )
        if not (isinstance(after, str) and isinstance(resume, str)):
            raise ValueError
    except (ValueError, TypeError, RecursionError, binascii.Error):
        raise Problem(
            400, "invalid-page", "`page` is none that this API has given: take `next` of the page before"
        ) from None
    return after, resume


def cut(
    items: Sequence[T], key: Callable[[T], str], after: str | None, limit: int
) -> tuple[Sequence[T], bool]:
    """Return one page of items sorted by `key`, and whether there are more behind it."""
    start = 0
    if after is not None:
        low, high = 0, len(items)
        while low < high:
            middle = (low + high) // 2
            if key(items[middle]) <= after:
                low = middle + 1
            else:
                high = middle
        start = low
    return items[start : start + limit], start + limit < len(items)
