#!/usr/bin/env python3
"""Makes RabbitMQ's users for a team: one for each node, which reads its own queue alone, and some for callers.

    deploy/rabbitmq_users.py --secrets secrets --orchestrator caller passports/*.yaml
    rabbitmqctl import_definitions secrets/definitions.json

Queues and routing keys come from the passports. Passwords are made at random into files of the secrets' directory, one a
user, and kept when they are there already; the definitions, beside them, hold their hashes. Imported again, nothing changes.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import secrets
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roster import NodePassport
from roster.bus.amqp import names
from roster.errors import RosterError
from roster.node.presence import bindings_of

# How permissions name the default exchange, by which commands and answers go, and the queues that the broker names.
DEFAULT, OWN = "amq.default", r"amq\.gen-.*"
DEFINITIONS = "definitions.json"


@dataclass(frozen=True)
class User:
    """Who may do what; each is a regular expression over names, and over keys of the exchange for events and control.

    Attributes:
        configure: what may be declared and deleted.
        write: where may be published to, and what may be bound.
        read: what may be consumed, and bound to.
        publishes: keys of what may be published.
        hears: keys that may be bound.
    """

    name: str
    configure: str
    write: str
    read: str
    publishes: str = "^$"
    hears: str = "^$"


def only(*patterns: str) -> str:
    """Return the expression that matches one of these and nothing else."""
    return f"^({'|'.join(patterns)})$" if patterns else "^$"


def exactly(texts: Iterable[str]) -> list[str]:
    """Return the expressions that match these texts."""
    # Not re.escape, which escapes more than the broker's dialect asks for.
    return [re.sub(r"([\\^$.|?*+()\[\]{}])", r"\\\1", text) for text in texts]


def node(passport: NodePassport, *, events: bool) -> User:
    """Serves its own queue, and hears what is meant for it. With `events` it publishes them, too."""
    queue = passport.mindbus_queue
    own = exactly([names.command_queue(queue), names.control_queue(queue)])
    main = exactly([names.MAIN])
    return User(
        f"{passport.namespace}.{passport.name}",
        configure=only(*own),
        write=only(*own, *exactly([DEFAULT]), *(main if events else [])),
        read=only(*own, *main),
        publishes=r"^evt\." if events else "^$",
        hears=only(*exactly(bindings_of(passport))),
    )


def orchestrator(name: str, queues: Iterable[str]) -> User:
    """Sends commands, and stands by on the queues that it sends to: that is how it hears that a node is gone."""
    return User(
        name,
        configure=only(),
        write=only(*exactly([DEFAULT])),
        read=only(*exactly(names.command_queue(queue) for queue in queues)),
    )


def observer(name: str) -> User:
    """Hears events and control, and does nothing."""
    main = exactly([names.MAIN])
    return User(name, configure=only(OWN), write=only(OWN), read=only(OWN, *main), hears=r"^(evt|ctl)\.")


def operator(name: str) -> User:
    """Hears everything, gives nodes signals, and looks after the dead letters."""
    main, dead = exactly([names.MAIN]), exactly([names.DEAD])
    return User(
        name,
        configure=only(OWN),
        write=only(OWN, *exactly([DEFAULT]), *main),
        read=only(OWN, *main, *dead),
        publishes=r"^(evt|ctl)\.",
        hears=".*",
    )


def definitions(users: list[User], vhost: str, passwords: Path) -> dict[str, Any]:
    """Return what the broker imports: the users, and what they share and none of them may make."""
    passwords.mkdir(mode=0o700, parents=True, exist_ok=True)
    shared = {"vhost": vhost, "durable": True, "auto_delete": False}
    return {
        "vhosts": [{"name": vhost}],
        "users": [
            {
                "name": user.name,
                "password_hash": hashed(password(passwords / user.name)),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": [],
            }
            for user in users
        ],
        "permissions": [
            {"user": u.name, "vhost": vhost, "configure": u.configure, "write": u.write, "read": u.read}
            for u in users
        ],
        "topic_permissions": [
            {"user": u.name, "vhost": vhost, "exchange": names.MAIN, "write": u.publishes, "read": u.hears}
            for u in users
        ],
        "exchanges": [{**shared, "name": names.MAIN, "type": "topic", "internal": False, "arguments": {}}],
        "queues": [{**shared, "name": names.DEAD, "arguments": dict(names.DEAD_ARGUMENTS)}],
    }


def password(file: Path) -> str:
    """Return what a user's file holds; without one it is made."""
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(24) + "\n")
    return file.read_text().strip()


def hashed(secret: str) -> str:
    """Return a password as RabbitMQ keeps it.

    Source: https://www.rabbitmq.com/docs/passwords
    """
    salt = secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + secret.encode()).digest()).decode()


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,126}(?<!\.json)", text):
        raise argparse.ArgumentTypeError(
            f"{text!r}: letters, digits, dots, dashes, underscores, not .json at the end"
        )
    return text


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("passports", nargs="*", type=Path, metavar="PASSPORT", help="of the nodes")
    parser.add_argument(
        "--orchestrator", action="append", type=_name, default=[], metavar="USER", help="sends commands"
    )
    parser.add_argument(
        "--observer", action="append", type=_name, default=[], metavar="USER", help="hears events"
    )
    parser.add_argument(
        "--operator", action="append", type=_name, default=[], metavar="USER", help="signals, dead letters"
    )
    parser.add_argument("--events", action="store_true", help="the nodes publish events, too")
    parser.add_argument("--vhost", default="/", help="the virtual host (/)")
    parser.add_argument(
        "--secrets", type=Path, required=True, metavar="DIRECTORY", help="where the passwords are kept"
    )
    given = parser.parse_args()
    try:
        passports = [NodePassport.load(file) for file in given.passports]
    except (RosterError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    queues = [passport.mindbus_queue for passport in passports]
    users = [
        *(node(passport, events=given.events) for passport in passports),
        *(orchestrator(name, queues) for name in given.orchestrator),
        *map(observer, given.observer),
        *map(operator, given.operator),
    ]
    twice = {user.name for user in users if sum(user.name == other.name for other in users) > 1}
    if twice:
        print(f"{parser.prog}: more than one user is called {', '.join(sorted(twice))}", file=sys.stderr)
        return 1
    made = json.dumps(definitions(users, given.vhost, given.secrets), indent=1)
    (given.secrets / DEFINITIONS).write_text(made + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
