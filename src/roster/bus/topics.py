"""The names of the bus: queues, routing keys, and the AMQP topic patterns that match them (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from roster.errors import MessageError

MAX_NAME_BYTES = 255  # AMQP's short string


def check_queue(name: str) -> str:
    """Return a queue's name if it is one: any text of 1 to 255 bytes of UTF-8.

    Raises:
        MessageError: it is not.
    """
    return _checked(name, "a queue's name", 1)


def check_key(key: str) -> str:
    """Return a routing key if it is one: words divided by dots, at most 255 bytes of UTF-8.

    Raises:
        MessageError: it is not.
    """
    return _checked(key, "a routing key", 0)


def check_patterns(patterns: Sequence[str]) -> tuple[str, ...]:
    """Return patterns if each is one: a routing key whose words may be `*` (one word) or `#` (any number).

    Raises:
        MessageError: one is not, or a text was given where a list of texts is meant.
    """
    if isinstance(patterns, str):
        raise MessageError("patterns are a list of texts, not one text")
    return tuple(_checked(pattern, "a pattern", 0) for pattern in patterns)


def _checked(name: str, what: str, least: int) -> str:
    try:
        size = len(name.encode())
    except (UnicodeEncodeError, AttributeError) as error:
        raise MessageError(f"{what} is text that UTF-8 can hold, not {name!r:.60}") from error
    if not least <= size <= MAX_NAME_BYTES:
        raise MessageError(f"{what} is {least} to {MAX_NAME_BYTES} bytes of UTF-8, not {size}")
    return name


@lru_cache(maxsize=4096)
def matches(pattern: str, key: str) -> bool:
    """Tell whether a routing key matches an AMQP topic pattern.

    Source: AMQP 0-9-1, section 3.1.3.3 (topic exchange); as in RabbitMQ, words may be empty and an empty key
        has none.

    Example:
        >>> matches("cmd.writer.#", "cmd.writer"), matches("cmd.*.now", "cmd.writer.now"), matches("*", "a.b")
        (True, True, False)
    """
    words = key.split(".") if key else []
    # reached[i]: the pattern read so far can end after the first i words. Linear for each pattern word,
    # whatever it holds.
    reached = [True] + [False] * len(words)
    for part in pattern.split(".") if pattern else []:
        if part == "#":
            first = reached.index(True) if True in reached else len(reached)
            reached = [i >= first for i in range(len(reached))]
        else:
            reached = [False] + [reached[i] and (part == "*" or part == word) for i, word in enumerate(words)]
    return reached[-1]


def matches_any(patterns: Sequence[str], key: str) -> bool:
    """Tell whether a routing key matches at least one of the patterns."""
    return any(matches(pattern, key) for pattern in patterns)
