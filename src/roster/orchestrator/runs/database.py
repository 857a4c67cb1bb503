"""Where runs are kept: which database, its tables, and how it is opened.

The engine of durable execution (DBOS) keeps its own tables in the same database; these are what people are shown and what
orchestrators agree on: who runs what, what was dispatched to whom, who has said what to a waiting run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roster._address import secret
from roster._paths import ensure_private_dir, state_dir
from roster.errors import ConfigError, RunsUnavailableError

if TYPE_CHECKING:
    import sqlalchemy as sa

VARIABLE = "ROSTER_RUNS"
PASSWORD = "ROSTER_RUNS_PASSWORD"  # noqa: S105 - the name of a variable
_POSTGRES = ("postgresql", "postgres", "postgresql+psycopg")
_BUSY_SECONDS = 30
_CONNECT_SECONDS = 10
_FORMS = "sqlite:///absolute/path or postgresql://USER@HOST:PORT/DATABASE"


@dataclass(frozen=True, slots=True)
class RunsUrl:
    """Which database keeps the runs.

    Attributes:
        scheme: `sqlite` or `postgresql`.
        path: the file of `sqlite`, else empty.
        shown: the URL without its secrets.
        text: the URL as SQLAlchemy takes it; never shown.
    """

    scheme: str
    path: str
    shown: str
    text: str = field(repr=False)

    @classmethod
    def parse(cls, url: str | None = None) -> RunsUrl:
        """Read a URL; without one `ROSTER_RUNS`, else the file `runs.sqlite` in the user's state directory.

        A user without a password has that of `ROSTER_RUNS_PASSWORD`, or of the file `ROSTER_RUNS_PASSWORD_FILE`.

        Raises:
            ConfigError: it is none of ours, or its password cannot be read.
        """
        from urllib.parse import quote, unquote, urlsplit

        text = url or os.environ.get(VARIABLE) or f"sqlite:///{state_dir() / 'runs.sqlite'}"
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise ConfigError(f"{VARIABLE} is no URL: expected {_FORMS}") from None
        if parts.scheme == "sqlite":
            path = unquote(parts.path)
            # Three slashes and an absolute path are four slashes to SQLAlchemy, and three to everybody else.
            path = "/" + path.lstrip("/") if path else ""
            if parts.netloc or not path or parts.query:
                raise ConfigError(f"{VARIABLE}: expected {_FORMS}")
            return cls("sqlite", path, f"sqlite://{quote(path)}", f"sqlite:///{path}")
        if parts.scheme in _POSTGRES and host and parts.path.strip("/"):
            where = f"{host}{f':{port}' if port else ''}{parts.path}"
            if parts.username and parts.password is None and (password := secret(PASSWORD)) is not None:
                user, _, place = parts.netloc.rpartition("@")
                text = parts._replace(
                    netloc=f"{user.rstrip(':')}:{quote(password, safe='')}@{place}"
                ).geturl()
            return cls(
                "postgresql", "", f"postgresql://{where}", "postgresql+psycopg" + text[len(parts.scheme) :]
            )
        raise ConfigError(f"{VARIABLE}: expected {_FORMS}")


def need_sqlalchemy() -> None:
    """Raise where the packages that runs need are not installed.

    Raises:
        ConfigError: says how to install them.
    """
    try:
        import sqlalchemy  # noqa: F401 - only asked whether it is there
    except ImportError:
        raise ConfigError(
            "running process cards needs further packages: pip install 'agent-roster[runs]'"
        ) from None


def tables() -> Tables:
    """Return the tables; made once."""
    global _tables
    if _tables is None:
        _tables = Tables()
    return _tables


_tables: Tables | None = None


class Tables:
    """The tables, for SQLAlchemy."""

    def __init__(self) -> None:
        import sqlalchemy as sa

        self.metadata = metadata = sa.MetaData()
        text, number, seconds = sa.Text, sa.Integer, sa.Float(53)
        # A card as it was when a run began with it.
        self.cards = sa.Table(
            "roster_cards",
            metadata,
            sa.Column("digest", text, primary_key=True),
            sa.Column("document", text, nullable=False),
            sa.Column("name", text, nullable=False),
            sa.Column("limits", text, nullable=False),
        )
        self.runs = sa.Table(
            "roster_runs",
            metadata,
            sa.Column("id", text, primary_key=True),
            sa.Column("card", text, nullable=False, index=True),
            sa.Column("card_version", text),
            sa.Column("digest", text, nullable=False),
            sa.Column("cards", text, nullable=False),  # JSON: which cards its subprocess steps mean
            sa.Column("state", text, nullable=False, index=True),
            sa.Column("inputs", text, nullable=False),
            sa.Column("options", text, nullable=False),
            sa.Column("result", text),
            sa.Column("error", text),
            sa.Column("created_at", seconds, nullable=False, index=True),
            sa.Column("started_at", seconds),
            sa.Column("ended_at", seconds),
            sa.Column("last_progress_at", seconds),
            sa.Column("progress", number, nullable=False, default=0),
            sa.Column("executor", text),
            sa.Column("recoveries", number, nullable=False, default=0),
            # How often it was taken up from the dead without having got on, and how far it was when it was last taken up.
            sa.Column("strikes", number, nullable=False, default=0),
            sa.Column("progress_before", number, nullable=False, default=0),
            sa.Column("paused", sa.Boolean, nullable=False, default=False),
        )
        # What an engine walks: the run itself, and each branch and item beside it. Whoever's it is may go on with it.
        self.walks = sa.Table(
            "roster_walks",
            metadata,
            sa.Column("id", text, primary_key=True),
            sa.Column("run", text, nullable=False, index=True),
            sa.Column("order", text, nullable=False),
            sa.Column("end", text),
            sa.Column("executor", text, index=True),
            sa.Column("ended", sa.Boolean, nullable=False, default=False, index=True),
        )
        self.steps = sa.Table(
            "roster_steps",
            metadata,
            sa.Column("run", text, primary_key=True),
            sa.Column("key", text, primary_key=True),
            sa.Column("number", number, nullable=False),
            sa.Column("id", text, nullable=False),
            sa.Column("visit", number, nullable=False),
            sa.Column("kind", text, nullable=False),
            sa.Column("action", text),
            sa.Column("parent", text),
            sa.Column("state", text, nullable=False),
            sa.Column("node", text),
            sa.Column("node_uid", text),
            sa.Column("attempts", text),
            sa.Column("started_at", seconds),
            sa.Column("dispatched_at", seconds),
            sa.Column("ended_at", seconds),
            sa.Column("redispatched", number, nullable=False, default=0),
            sa.Column("timeout", seconds),
            sa.Column("waiting", text),
            sa.Column("error", text),
        )
        self.executors = sa.Table(
            "roster_executors",
            metadata,
            sa.Column("id", text, primary_key=True),
            sa.Column("holder", text, nullable=False),
            sa.Column("store", text, nullable=False),
            sa.Column("since", seconds, nullable=False),
        )
        # What people and programs have said to a run.
        self.signals = sa.Table(
            "roster_signals",
            metadata,
            sa.Column("number", number, primary_key=True, autoincrement=True),
            sa.Column("run", text, nullable=False, index=True),
            sa.Column("kind", text, nullable=False),  # event, approval, decision
            sa.Column("name", text, nullable=False),  # of the event; else the step's key, empty for any
            sa.Column("data", text, nullable=False),
            sa.Column("at", seconds, nullable=False),
            sa.Column("taken", text),
        )
        # Cards whose runs are to stand still.
        self.pauses = sa.Table(
            "roster_pauses",
            metadata,
            sa.Column("card", text, primary_key=True),
            sa.Column("at", seconds, nullable=False),
        )


def open_engine(url: RunsUrl) -> sa.Engine:
    """Open the database, and make the tables where they are not there.

    Raises:
        ConfigError: the packages are not installed, or the directory cannot be used.
        RunsUnavailableError: the database cannot be reached, or refuses us.
    """
    need_sqlalchemy()
    import sqlalchemy as sa
    from sqlalchemy.pool import QueuePool

    if url.scheme == "sqlite":
        ensure_private_dir(Path(url.path).parent)
        engine = sa.create_engine(
            url.text,
            poolclass=QueuePool,
            # There is one writer at a time: threads queue for a connection here, rather than sleep on each other's locks.
            pool_size=2,
            max_overflow=0,
            connect_args={"check_same_thread": False, "timeout": _BUSY_SECONDS},
        )
        sa.event.listen(engine, "connect", _prepare_sqlite)
    else:
        engine = sa.create_engine(
            url.text,
            # Threads queue for a connection here too: one beyond those that are kept would be made anew for few statements,
            # and its making (a password hashed 4096 times, a process of the server) costs more than they do.
            pool_size=8,
            max_overflow=0,
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": _CONNECT_SECONDS,
                "application_name": "roster",
                # A server that went away without a word must not hold a write for ever.
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
            },
        )
    with reached(url):
        _make_tables(engine)
    return engine


@contextmanager
def reached(url: RunsUrl) -> Iterator[None]:
    """Turn the database's failures into one error that names it, without its secrets.

    Raises:
        RunsUnavailableError: it cannot be reached, is damaged, or refuses.
    """
    import sqlalchemy as sa

    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or type(error).__name__).strip().splitlines()
        line = reason[0][:200] if reason else type(error).__name__
        raise RunsUnavailableError(
            f"the database of runs {url.shown} cannot be used ({line}): check {VARIABLE}, and that it is there"
        ) from None


def _make_tables(engine: sa.Engine) -> None:
    import sqlalchemy as sa

    for last in (False, True):
        try:
            tables().metadata.create_all(engine)
        except (sa.exc.OperationalError, sa.exc.ProgrammingError, sa.exc.IntegrityError):
            # Another process made them between our looking and our making.
            if last:
                raise
        else:
            return


def _prepare_sqlite(connection: Any, _: object) -> None:
    # Writers queue for the lock when they begin, not in the middle; a write is on the disk when it is confirmed.
    connection.isolation_level = "IMMEDIATE"
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        f"busy_timeout={_BUSY_SECONDS * 1000}",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")
    name = connection.execute("PRAGMA database_list").fetchone()[2]
    if name:
        os.chmod(name, 0o600)  # noqa: PTH101 - a name as SQLite gave it
