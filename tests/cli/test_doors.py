"""What a user meets at the door of a registry on a server: one clear line, soon, and no secret in it."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import pytest
from kazoo.client import KazooClient
from kazoo.security import make_digest_acl
from tests.conftest import passport
from tests.engines import not_here, store_params

from servers import Certificates, Consul, Etcd, ServerMissingError, ZooKeeper

# Seconds, `?timeout=` of URLs: of those at which somebody waits for it to pass, and of those that are answered at once.
TIMEOUT = 4
AMPLE = 20
# Seconds. A command takes less than three, eight of them at once on a busy machine ten; what says nothing here does so for
# longer than this.
HANGS = 40.0
DEAF = 90.0
PASSWORD = "s3cret/wörd:100%"  # letters that mean something in URLs
WRONG = "wr0ng/wörd:100%"
STORE_FAILED, NOBODY_CAN = 3, 7
ENGINES = store_params("etcd", "consul", "zookeeper")


@dataclass(frozen=True)
class Front:
    """One engine's two servers, one of them with TLS, both with users or tokens.

    Attributes:
        plain: address of the one without TLS.
        secure: address of the one with it.
        urls: by who comes in: `owner`, `owner with TLS`, `reader` (may read what is under /ai-team, and write nothing),
            `stranger` (has rights elsewhere), `wrong password`, `nobody`.
        authorities: who has signed the server's certificate, and who has not.
        secrets: what must never be shown.
    """

    plain: str
    secure: str
    urls: dict[str, str]
    authorities: tuple[Path, Path]
    secrets: tuple[str, ...]

    def url(self, fault: str, elsewhere: Callable[[str], str]) -> str:
        """Return a URL with a fault."""
        url = self.urls.get(fault, self.urls["owner"])
        if fault == "wrong CA":
            ours, theirs = (quote(str(path)) for path in self.authorities)
            url = self.urls["owner with TLS"].replace(ours, theirs)
        elif fault == "plain to TLS":
            url = url.replace(self.plain, self.secure)
        elif fault == "TLS to plain":
            url = self.urls["owner with TLS"].replace(self.secure, self.plain)
        elif fault in ("unknown host", "refused port", "silent port"):
            url = url.replace(self.plain, elsewhere(fault))
        timeout = AMPLE if fault in self.urls else TIMEOUT
        return f"{url}{'&' if '?' in url else '/?'}timeout={timeout}"


def _etcd(directory: Path, certificates: Certificates, stack: ExitStack) -> Front:
    plain = stack.enter_context(Etcd(directory / "plain", fsync=False, root_password=PASSWORD))
    secure = stack.enter_context(
        Etcd(directory / "secure", fsync=False, root_password=PASSWORD, tls=certificates)
    )
    plain.add_user("reader", PASSWORD, access="read", prefix="/ai-team/")
    plain.add_user("stranger", PASSWORD, prefix="/team-b/")
    urls = {
        "owner": plain.url,
        "owner with TLS": secure.url,
        "reader": plain.url_of("reader", PASSWORD),
        "stranger": plain.url_of("stranger", PASSWORD),
        "wrong password": plain.url_of("root", WRONG),
        "nobody": plain.url_of(),
    }
    return Front(plain.address, secure.address, urls, (certificates.ca, Path()), (PASSWORD, WRONG))


_CONSUL_RULES = """
key_prefix "{prefix}" {{ policy = "{access}" }}
session_prefix "" {{ policy = "{access}" }}
service_prefix "" {{ policy = "{access}" }}
agent_prefix "" {{ policy = "read" }}
node_prefix "" {{ policy = "read" }}
"""


def _consul(directory: Path, certificates: Certificates, stack: ExitStack) -> Front:
    plain = stack.enter_context(Consul(directory / "plain", acl=True))
    secure = stack.enter_context(Consul(directory / "secure", acl=True, tls=certificates))
    reader = plain.add_token(_CONSUL_RULES.format(prefix="ai-team/", access="read"))
    stranger = plain.add_token(_CONSUL_RULES.format(prefix="team-b/", access="write"))
    wrong = "00000000-0000-4000-8000-000000000000"
    urls = {
        "owner": plain.url,
        "owner with TLS": secure.url,
        "reader": plain.url_of(reader),
        "stranger": plain.url_of(stranger),
        "wrong password": plain.url_of(wrong),
        "nobody": plain.url_of(),
    }
    secrets = (reader, stranger, wrong, plain.token or "", secure.token or "")
    assert all(secrets)
    return Front(plain.address, secure.address, urls, (certificates.ca, Path()), secrets)


def _zookeeper(directory: Path, certificates: Certificates, stack: ExitStack) -> Front:
    plain = stack.enter_context(ZooKeeper(directory / "plain", fsync=False, tick=2000))
    secure = stack.enter_context(ZooKeeper(directory / "secure", fsync=False, tls=certificates, tick=2000))
    client = KazooClient(plain.address, auth_data=[("digest", f"owner:{PASSWORD}")])
    client.start(timeout=10)
    try:
        # As an administrator would: each team a node of its own.
        owner = make_digest_acl("owner", PASSWORD, all=True)
        reader = make_digest_acl("reader", PASSWORD, read=True)
        client.create("/ai-team", acl=[owner, reader])
        client.create("/team-b", acl=[make_digest_acl("stranger", PASSWORD, all=True)])
    finally:
        client.stop()
        client.close()
    urls = {
        "owner": plain.url_of("owner", PASSWORD),
        "owner with TLS": secure.url_of("owner", PASSWORD),
        "reader": plain.url_of("reader", PASSWORD),
        "stranger": plain.url_of("stranger", PASSWORD),
        "wrong password": plain.url_of("owner", WRONG),
        "nobody": plain.url_of(),
    }
    return Front(plain.address, secure.address, urls, (certificates.ca, Path()), (PASSWORD, WRONG))


@pytest.fixture(scope="module", params=ENGINES)
def front(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """An engine's servers."""
    directory = tmp_path_factory.mktemp(request.param)
    certificates = Certificates(directory / "ours")
    start = {"etcd": _etcd, "consul": _consul, "zookeeper": _zookeeper}[request.param]
    with ExitStack() as stack:
        try:
            made = start(directory, certificates, stack)
        except ServerMissingError as error:
            not_here(request.param, str(error))
        authorities = (certificates.ca, Certificates(directory / "theirs").ca)
        yield Front(made.plain, made.secure, made.urls, authorities, made.secrets)


@pytest.fixture
def elsewhere() -> Iterator[Callable[[str], str]]:
    """An address at which there is nothing to be had, by what is wrong there."""
    with ExitStack() as stack:

        def address(fault: str) -> str:
            if fault == "unknown host":
                return "no-such-host.invalid:2379"  # RFC 2606: never a name of anybody's
            held = stack.enter_context(socket.socket())
            held.bind(("127.0.0.1", 0))
            if fault == "silent port":
                held.listen(64)  # connections come about, and nobody ever answers
            return f"127.0.0.1:{held.getsockname()[1]}"

        yield address


@dataclass(frozen=True)
class End:
    """How a command ended; `took` seconds."""

    status: int
    took: float
    out: str
    err: str


# Each command is a process of its own, for libraries below Python write to stderr too, and threads may hold an end back;
# forked from one that has imported what they share and run one of them, eight at once, for most of this is waiting.
_COMMANDS = """
import contextlib, io, json, os, signal, socket, sys, time
import aiohttp
import roster.cli.app, roster.cli.doctor.bus, roster.cli.doctor.nodes, roster.cli.keeper, roster.registry
import roster.store.consul, roster.store.etcd, roster.store.zookeeper
from roster.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    os.environ["ROSTER_REGISTRY"] = "memory://warm"
    main(["get", "nodes"])
del os.environ["ROSTER_REGISTRY"]
if deaf := float(os.environ.get("DEAF_NAME_SERVER", "0")):
    look_up = socket.getaddrinfo
    def unheard(host, *args, **named):
        if str(host).endswith(".invalid"):
            time.sleep(deaf)
        return look_up(host, *args, **named)
    socket.getaddrinfo = unheard
children = {}
def wait():
    child, status = os.wait()
    door, name, began = children.pop(child)
    print(json.dumps([door, name, os.waitstatus_to_exitcode(status), time.monotonic() - began]), flush=True)
for door, name, args, environment in json.load(sys.stdin):
    while len(children) >= 8:
        wait()
    if not (child := os.fork()):
        signal.alarm(100)
        os.chdir(door)
        os.environ.update(environment)
        for number, stream in (1, "out"), (2, "err"):
            os.dup2(os.open(f"{name}.{stream}", os.O_WRONLY | os.O_CREAT), number)
        sys.exit(main(args))
    children[child] = door, name, time.monotonic()
while children:
    wait()
"""


def knock(
    urls: Mapping[str, str], directory: Path, *, quietly: Collection[str] = (), **environment: str
) -> dict[str, dict[str, End]]:
    """Try the commands on several registries, and return how each ended, by registry and command.

    Args:
        urls: the registries; an empty URL leaves it to the environment.
        directory: for files.
        quietly: where nobody is registered: the commands run side by side, and one would see the other's node.
        environment: further variables; `DEAF_NAME_SERVER`: seconds for which look-ups of unknown hosts say nothing.
    """
    file = directory / "passport.json"
    file.write_text(json.dumps(passport("writer-001", "write_article")))
    commands = {
        "get": ["get", "nodes"],
        "register": ["register", "-f", str(file), "--", "echo", "has run"],
        "doctor": ["doctor"],
        "find": ["find", "write_article", "-vv", "--debug"],
    }
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ROSTER_", "ETCD_", "CONSUL_"))
    }
    tried = []
    named = {door: [name for name in commands if name != "register" or door not in quietly] for door in urls}
    for door, url in urls.items():
        place = directory / door
        place.mkdir()
        ours = {"ROSTER_STATE_DIR": f"{place}/state", "ROSTER_BUS": f"local://{place}/bus"}
        ours |= {"ROSTER_REGISTRY": url} if url else {}
        tried += [(door, name, commands[name], ours) for name in named[door]]
    done = subprocess.run(
        [sys.executable, "-c", _COMMANDS],
        cwd=directory,
        env=inherited | environment,
        input=json.dumps(tried),
        capture_output=True,
        text=True,
        timeout=110,
        check=True,
    )
    ends: dict[str, dict[str, End]] = {door: {} for door in urls}
    for line in done.stdout.splitlines():
        door, name, status, took = json.loads(line)
        out, err = ((directory / door / f"{name}.{stream}").read_text() for stream in ("out", "err"))
        ends[door][name] = End(status, took, out, err)
    assert {door: sorted(each) for door, each in ends.items()} == {
        door: sorted(names) for door, names in named.items()
    }, done
    return ends


def shows(secret: str, text: str) -> bool:
    """Return whether a text has a secret in it, in any way that such things are written."""
    raw = secret.encode()
    forms = {secret, quote(secret), quote(secret, safe=""), repr(secret)[1:-1], json.dumps(secret)[1:-1]}
    forms |= {repr(raw)[2:-1], raw.hex(), base64.b64encode(raw).decode().rstrip("=")}
    return any(form in text for form in forms)


# What the line says, by fault, whatever the engine.
FAULTS = {
    "wrong password": r"password|token",
    "nobody": r"password|token",
    "stranger": r"may not|refuses",
    "wrong CA": r"certificate",
    "plain to TLS": r"etcds://|consuls://|HTTPS|zookeepers://",
    "TLS to plain": r"TLS",
    "unknown host": r"no-such-host\.invalid\b.*\bhost\b",
    "refused port": r"refused|cannot connect",
    "silent port": r"not? answer",
}


def check(front: Front, doors: Mapping[str, Mapping[str, End]]) -> None:
    """Hold what is true of all commands, whatever they meet."""
    for door, ends in doors.items():
        for name, end in ends.items():
            assert end.took < HANGS, (door, name, end)
            assert not any(shows(secret, end.out + end.err) for secret in front.secrets), (door, name, end)


def shut(door: str, ends: Mapping[str, End], said: str) -> None:
    """Hold that no command came in, and that each says why."""
    for name in ("get", "register"):
        end = ends[name]
        assert (end.status, end.out) == (STORE_FAILED, ""), (door, name, end)
        assert re.fullmatch(r"error: [^\n]+\n", end.err), (door, name, end)
        assert re.search(said, end.err), (door, name, end)
    find = ends["find"]
    assert (find.status, find.out) == (STORE_FAILED, ""), (door, find)
    assert "Traceback" in find.err, (door, find)
    assert re.search(said, find.err.splitlines()[-1]), (door, find)
    doctor = ends["doctor"]
    assert (doctor.status, doctor.err) == (1, ""), (door, doctor)
    told = re.search(r"^FAIL  store +([^\n]+)\n +-> [^\n]+$", doctor.out, re.MULTILINE)
    assert told is not None, (door, doctor)
    assert re.search(said, told[1]), (door, doctor)


def reads(door: str, ends: Mapping[str, End]) -> None:
    """Hold that those commands came in that only read."""
    assert ends["get"].status == 0, (door, ends["get"])
    assert ends["find"].status in (0, NOBODY_CAN), (door, ends["find"])
    # A warning: on a busy machine it may be slow.
    assert re.search(r"^(OK|WARN) +store +\S+ answers in ", ends["doctor"].out, re.MULTILINE), (
        door,
        ends["doctor"],
    )


def test_a_door_that_stays_shut_is_told_in_one_line(
    front: Front, elsewhere: Callable[[str], str], tmp_path: Path
) -> None:
    doors = knock({fault: front.url(fault, elsewhere) for fault in FAULTS}, tmp_path)
    check(front, doors)
    for fault, said in FAULTS.items():
        shut(fault, doors[fault], said)


def test_who_has_the_key_comes_in_as_far_as_the_key_goes(
    front: Front, elsewhere: Callable[[str], str], tmp_path: Path
) -> None:
    urls = {who: front.url(who, elsewhere) for who in ("owner", "owner with TLS", "reader")}
    urls["stranger at home"] = front.url("stranger", elsewhere) + "&prefix=/team-b"
    urls["reader elsewhere"] = front.url("reader", elsewhere) + "&prefix=/team-b"
    urls["owner astray"] = front.url("owner", elsewhere) + "&prefix=/ai-taem"
    doors = knock(urls, tmp_path, quietly=["owner astray"])
    check(front, doors)
    for who in ("owner", "owner with TLS", "stranger at home"):
        register = doors[who]["register"]
        assert register == replace(register, status=0, out="has run\n", err=""), (who, register)
        reads(who, doors[who])
    reads("reader", doors["reader"])
    register = doors["reader"]["register"]
    assert (register.status, register.out) == (STORE_FAILED, ""), register
    assert re.fullmatch(r"error: [^\n]+\n", register.err), register
    assert re.search(FAULTS["stranger"], register.err), register
    shut("reader elsewhere", doors["reader elsewhere"], FAULTS["stranger"])
    # A wrong prefix that is open to whoever comes: nobody is there.
    astray = doors["owner astray"]["get"]
    assert astray == replace(astray, status=0, out="", err="no nodes in namespace default\n"), astray


@pytest.mark.parametrize(
    "engine", store_params("consul", "zookeeper")
)  # etcd's names are not looked up by Python
def test_a_name_server_that_says_nothing_holds_nobody_up(engine: str, tmp_path: Path) -> None:
    url = f"{engine}://no-such-host.invalid/?timeout={TIMEOUT}"
    ends = knock({"deaf": url}, tmp_path, DEAF_NAME_SERVER=f"{DEAF}")["deaf"]
    assert max(end.took for end in ends.values()) < HANGS, ends
    shut("deaf", ends, r"no-such-host\.invalid")


@pytest.mark.store("etcd")
def test_the_founding_documents_names_and_credentials_of_the_environment_open_the_door(
    tmp_path: Path, start_etcd: Callable[..., Etcd]
) -> None:
    server = start_etcd(fsync=False, root_password=PASSWORD)
    host, _, port = server.address.partition(":")
    place = {"ETCD_HOST": host, "ETCD_PORT": port, "ROSTER_REGISTRY_USER": "root"}
    open_ = knock({"open": ""}, tmp_path, **place, ROSTER_REGISTRY_PASSWORD=PASSWORD)["open"]
    assert open_["register"].status == 0, open_["register"]
    assert open_["get"].status == 0, open_["get"]
    assert f"etcd://{server.address} answers" in open_["doctor"].out
    closed = knock({"closed": ""}, tmp_path, **place, ROSTER_REGISTRY_PASSWORD=WRONG)["closed"]
    assert re.fullmatch(r"error: etcd://[^\n]+'root'[^\n]+\n", closed["get"].err), closed["get"]
    shown = "".join(end.out + end.err for end in (*open_.values(), *closed.values()))
    assert not shows(PASSWORD, shown)
    assert not shows(WRONG, shown)


@pytest.mark.store("consul")
def test_the_token_of_consuls_own_variable_opens_the_door(
    tmp_path: Path, start_consul: Callable[..., Consul]
) -> None:
    server = start_consul(acl=True)
    assert server.token
    ends = knock({"open": server.url_of()}, tmp_path, CONSUL_HTTP_TOKEN=server.token)["open"]
    assert ends["register"].status == 0, ends["register"]
    assert ends["get"].status == 0, ends["get"]
    assert not shows(server.token, "".join(end.out + end.err for end in ends.values()))
