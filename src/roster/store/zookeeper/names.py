"""Keys as znode paths and values as znode data, both ways."""

from __future__ import annotations

import re
from urllib.parse import quote_from_bytes, unquote_to_bytes

# A counter beside the keys of each directory; see `planning`. No key is called so: 'bi' is no pair of hex digits.
BIRTHS = "%births"
# ZooKeeper's own, which users have no business in.
RESERVED = "zookeeper"

# What the programmer's guide forbids in a name, and '%', by which the rest of this module escapes; and what lies beyond the
# basic plane, of which it says that it "does not work" through Java's surrogates.
# https://zookeeper.apache.org/doc/current/zookeeperProgrammers.html#ch_zkDataModel
_FORBIDDEN = re.compile("[\x01-\x1f\x7f-\x9f%\ud800-\uf8ff\ufff0-\uffff\U00010000-\U0010ffff]+")

# Before the data of a key whose value is empty, which would look like a directory, or begins with these bytes itself.
_MARK = b"\x00roster:"


def to_path(key: str) -> str:
    """Return the path of a key's znode.

    It is the key itself; only what a znode cannot be called is percent-encoded, and an empty component is a lone '%'.

    Example:
        >>> to_path("/ai-team/nodes/default/writer-001")
        '/ai-team/nodes/default/writer-001'
        >>> to_path("/a//../%")
        '/a/%/%2E%2E/%25'
    """
    first, *rest = key[1:].split("/")
    named = f"%7A{first[1:]}" if first == RESERVED else _named(first)
    return "/" + "/".join([named, *map(_named, rest)])


def _named(component: str) -> str:
    if not component:
        return "%"
    if component in (".", ".."):
        return "%2E" * len(component)
    return _FORBIDDEN.sub(lambda found: quote_from_bytes(found[0].encode(), safe=""), component)


def to_key(path: str) -> str | None:
    """Return the key of a znode; None if it stands for none: ours to count with, ZooKeeper's own, or not named by us."""
    try:
        key = "".join(
            "/" + ("" if name == "%" else unquote_to_bytes(name).decode()) for name in path[1:].split("/")
        )
        return key if to_path(key) == path else None
    except UnicodeError:
        return None


def directory_of(path: str) -> str:
    """Return the path of the znode above."""
    return path.rpartition("/")[0] or "/"


def ancestors(directory: str) -> list[str]:
    """Return the paths from the top down to a directory, without the root."""
    names = directory[1:].split("/") if directory != "/" else []
    return ["/" + "/".join(names[: depth + 1]) for depth in range(len(names))]


def directory_of_prefix(prefix: str) -> str:
    """Return the path of the deepest znode that all keys with this prefix lie under."""
    above = prefix.rpartition("/")[0]
    return to_path(above) if above.startswith("/") else "/"


def under(directory: str, name: str) -> str:
    """Return the path of a child."""
    return f"/{name}" if directory == "/" else f"{directory}/{name}"


def to_data(value: bytes) -> bytes:
    """Return what a znode holds for a value; never empty: a znode without data is a directory and no key."""
    return _MARK + value if not value or value.startswith(_MARK) else value


def to_value(data: bytes) -> bytes:
    """Return the value that a znode's data stands for."""
    return data.removeprefix(_MARK)
