"""Documents and keys that nobody should have to read, and what a reader has to make of each."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

from servers.http import request

from chaos.stores import founding
from roster.registry.keys import NODES, ROOT, STATUS
from roster.registry.status import NodeStatus
from roster.store import MAX_VALUE_BYTES
from servers import Consul, Etcd, Server

HUGE = 20
"""Documents as large as the store takes them; the rest is small."""


@dataclass(frozen=True, slots=True)
class Rubbish:
    """One hostile entry.

    Attributes:
        key: where it is put.
        value: the document.
        quarantined: whether readers have to set that key aside; else they pass over it without a word.
    """

    key: str
    value: bytes
    quarantined: bool


_BOMB = b"a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 12)
)


def rubbish(count: int) -> Iterator[Rubbish]:
    """Yield so many entries, of each kind about as many."""
    for number in range(count):
        name = f"bad-{number}"
        good = f"{NODES}rubbish/{name}"
        if number < HUGE:
            yield Rubbish(good, b'{"kind": "' + b"x" * (MAX_VALUE_BYTES - 12) + b'"}', True)
            continue
        match number % 12:
            case 0:
                yield Rubbish(good, os.urandom(200), True)
            case 1:
                yield Rubbish(good, _BOMB, True)
            case 2:
                yield Rubbish(good, b'{"metadata": {"generation": ' + b"9" * 4301 + b"}}", True)
            case 3:
                yield Rubbish(good, founding("permanent-0"), True)  # says that it is somebody else
            case 4:
                yield Rubbish(good, b"[" * 20_000, True)
            case 5:
                yield Rubbish(f"{NODES}rubbish/{name}/and/deeper", founding(name, "rubbish"), True)
            case 6:
                yield Rubbish(f"{NODES}Rubbish \u202e\x1b[31m/{name}", founding(name), True)
            case 7:
                yield Rubbish(f"{STATUS}rubbish/{name}", NodeStatus(f"uid-{number}").encode(), False)
            case 8:
                yield Rubbish(f"{STATUS}rubbish/{name}", b"{" * 500, False)
            case 9:
                yield Rubbish(f"{ROOT}elsewhere/{name}", os.urandom(200), False)
            case 10:
                other = founding(name, "rubbish").replace(b"ai-team.dev/v1", b"ai-team.dev/v9")
                yield Rubbish(good, other, True)
            case _:
                text = json.loads(founding(name, "rubbish"))
                text["metadata"]["labels"] = {"\ud800\x00": "\x1b]0;\x07" * 100}
                yield Rubbish(good, json.dumps(text).encode(), True)


def unspeakable(server: Server) -> int:
    """Write keys that this package's own client refuses to write: NUL, no UTF-8, over the limits; return how many."""
    names = (b"nodes/chaos/nul\0name", b"nodes/chaos/\xff\xfe", b"status/\xc3\x28/x", b"nodes/" + b"x" * 700)
    written = 0
    for name in names:
        key, value = b"/ai-team/" + name, b"\0\xff" * 10
        if isinstance(server, Etcd):
            body = {name: base64.b64encode(said).decode() for name, said in (("key", key), ("value", value))}
            status, _ = request(server.ports["client"], "/v3/kv/put", method="POST", body=body)
        elif isinstance(server, Consul):
            status, _ = request(server.http_port, f"/v1/kv/{quote(key[1:])}", method="PUT", body="x")
        else:
            continue  # this one refuses them itself
        written += status == 200
    return written
