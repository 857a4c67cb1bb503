"""What an executor reads in the database of runs, and how it takes up what the dead have left."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from roster.errors import RunError
from roster.orchestrator.runs.database import tables
from roster.orchestrator.runs.identity import Known
from roster.orchestrator.runs.pages import state_of
from roster.orchestrator.runs.record import ENDED
from roster.orchestrator.runs.writes import to_json
from roster.registry.holder import Holder

if TYPE_CHECKING:
    import sqlalchemy as sa

_PART = 200
_BESIDE = 10_000
_SUSPECT = 3
_AT_REST = ("waiting", "paused")


@dataclass(frozen=True, slots=True)
class FoundWalk:
    """A walk that is to be walked.

    Attributes:
        run: the run that it is part of.
        order: what is to be walked.
        options: the run's.
        begun: whether it was walked before.
        cards: document and limits of the cards of the run, by digest.
        homes: who has those steps of the run that have not ended, by their keys.
    """

    run: str
    order: Mapping[str, Any]
    options: Mapping[str, Any]
    begun: bool
    cards: Mapping[str, tuple[str, str]]
    homes: Mapping[str, str]


def walk(engine: sa.Engine, name: str) -> FoundWalk | None:
    """Return a walk; None where it, or its run, is over."""
    import sqlalchemy as sa

    all_ = tables()
    with engine.connect() as connection:
        row = connection.execute(
            sa.select(all_.walks.c.run, all_.walks.c.order).where(
                all_.walks.c.id == name, all_.walks.c.ended.is_(False)
            )
        ).first()
        if row is None:
            return None
        run = connection.execute(sa.select(all_.runs).where(all_.runs.c.id == row.run)).mappings().first()
        if run is None or run["state"] in ENDED:
            return None
        digests = {run["digest"], *json.loads(run["cards"]).values()}
        cards = connection.execute(sa.select(all_.cards).where(all_.cards.c.digest.in_(digests)))
        documents = {card.digest: (card.document, card.limits) for card in cards}
        steps = connection.execute(
            sa.select(all_.steps.c.key, all_.steps.c.node).where(
                all_.steps.c.run == row.run, all_.steps.c.ended_at.is_(None), all_.steps.c.node.is_not(None)
            )
        )
        homes = {str(step.key): str(step.node) for step in steps}
    begun = run["started_at"] is not None
    return FoundWalk(row.run, json.loads(row.order), json.loads(run["options"]), begun, documents, homes)


def subcard(engine: sa.Engine, run: str, digest: str, name: str) -> str:
    """Return the digest of the card that a subprocess step of another card means.

    Raises:
        RunError: the run knows no such card: its record is damaged.
    """
    import sqlalchemy as sa

    runs = tables().runs
    with engine.connect() as connection:
        text = connection.execute(sa.select(runs.c.cards).where(runs.c.id == run)).scalar()
    found = json.loads(text or "{}").get(f"{digest}|{name}")
    if found is None:
        raise RunError(f"the record of {run} has no card {name[:200]}")
    return str(found)


def end_of(engine: sa.Engine, name: str) -> dict[str, Any] | None:
    """Return how a walk ended; None while it goes on."""
    import sqlalchemy as sa

    walks = tables().walks
    with engine.connect() as connection:
        row = connection.execute(sa.select(walks.c.ended, walks.c.end).where(walks.c.id == name)).first()
    if row is None or not row.ended:
        return None
    end: dict[str, Any] = json.loads(row.end) if row.end else {"how": "cancelled"}
    return end


@dataclass(frozen=True, slots=True)
class Around:
    """What has been written by others.

    Attributes:
        paused_cards: cards whose runs stand still.
        paused_runs: single runs that do.
        over: walks of ours that have ended by another's hand, and how.
        said: runs that wait and that something was said to.
    """

    paused_cards: frozenset[str]
    paused_runs: frozenset[str]
    over: Mapping[str, dict[str, Any]]
    said: frozenset[str]


def around(engine: sa.Engine, mine: Sequence[str], waiting: Sequence[str]) -> Around:
    """Look at what concerns an executor.

    Args:
        mine: the walks that it walks.
        waiting: the runs that wait for a word.
    """
    import sqlalchemy as sa

    all_ = tables()
    over: dict[str, dict[str, Any]] = {}
    said: set[str] = set()
    with engine.connect() as connection:
        cards = frozenset(map(str, connection.execute(sa.select(all_.pauses.c.card)).scalars()))
        runs = frozenset(
            map(
                str,
                connection.execute(
                    sa.select(all_.runs.c.id).where(all_.runs.c.paused, all_.runs.c.state.notin_(ENDED))
                ).scalars(),
            )
        )
        for part in _parts(mine):
            rows = connection.execute(
                sa.select(all_.walks.c.id, all_.walks.c.end).where(
                    all_.walks.c.id.in_(part), all_.walks.c.ended
                )
            )
            for row in rows:
                over[str(row.id)] = json.loads(row.end) if row.end else {"how": "cancelled"}
        for part in _parts(waiting):
            found = connection.execute(
                sa.select(all_.signals.c.run)
                .distinct()
                .where(all_.signals.c.run.in_(part), all_.signals.c.taken.is_(None))
            )
            said.update(map(str, found.scalars()))
    return Around(cards, runs, over, frozenset(said))


def at_rest(engine: sa.Engine, mine: Sequence[str]) -> int:
    """Return how many of some runs only wait, or stand still."""
    import sqlalchemy as sa

    runs = tables().runs
    found = 0
    with engine.connect() as connection:
        for part in _parts(mine):
            query = sa.select(sa.func.count()).where(runs.c.id.in_(part), state_of().in_(_AT_REST))
            found += int(connection.execute(query).scalar() or 0)
    return found


def executors(engine: sa.Engine) -> list[Known]:
    """Return every executor on record."""
    import sqlalchemy as sa

    with engine.connect() as connection:
        rows = connection.execute(sa.select(tables().executors)).all()
    return [Known(row.id, Holder.from_dict(json.loads(row.holder)), row.store) for row in rows]


def left_over(engine: sa.Engine) -> list[str]:
    """Return some walks whose runs have been removed."""
    import sqlalchemy as sa

    walks, runs = tables().walks, tables().runs
    with engine.connect() as connection:
        gone = sa.select(walks.c.id).where(~sa.exists().where(runs.c.id == walks.c.run)).limit(_PART)
        return [str(one) for one in connection.execute(gone).scalars()]


@dataclass(frozen=True, slots=True)
class TakenUp:
    """What an executor has taken up.

    Attributes:
        walks: walks that are its own now, the runs' own before those beside them.
        runs: the run of each.
        suspects: runs that died with their orchestrators again and again: there is one at a time.
        given_up: runs that were given up instead, with their walks.
    """

    walks: list[str] = field(default_factory=list)
    runs: dict[str, str] = field(default_factory=dict)
    suspects: list[str] = field(default_factory=list)
    given_up: dict[str, list[str]] = field(default_factory=dict)


def take_up(
    me: str, dead: Sequence[str], *, room: int, suspects: Collection[str], recoveries: int
) -> Callable[[sa.Connection], TakenUp]:
    """Take walks that nobody has: those of the dead, and those that were let go or never begun.

    An orchestrator that dies strikes all runs that it had and that did not get on under it, since any may be what killed it.
    The innocent get on sooner or later, and are absolved. One that does not is taken up last, and alone among its kind,
    so that the innocent do not collect the strikes of the guilty. Those that only waited, or stood still, are not struck: an
    orchestrator that dies again and again for a reason of its own must not cost anybody a run that waits for a person.

    Args:
        me: who takes them.
        dead: executors that are dead for sure.
        room: how many runs, at most. Walks beside a run are taken whatever the room: somebody waits for them.
        suspects: those that `me` took before and still has. Unless they have got on, or wait, no other is taken.
        recoveries: how often a run may be taken up from the dead without having got on in between.
    """

    def write(connection: sa.Connection) -> TakenUp:
        import sqlalchemy as sa

        all_ = tables()
        walks, runs = all_.walks, all_.runs
        taken = TakenUp()
        free = sa.or_(walks.c.executor.is_(None), walks.c.executor.in_(dead))
        query = (
            sa.select(walks.c.id, walks.c.run, walks.c.executor, runs.c.state, runs.c.progress)
            .add_columns(runs.c.progress_before, runs.c.strikes, state_of().label("now"))
            .join(runs, runs.c.id == walks.c.run)
            .where(free, walks.c.ended.is_(False), runs.c.state.notin_(ENDED))
            .order_by(runs.c.strikes, runs.c.created_at)
        )
        roots = connection.execute(query.where(walks.c.id == walks.c.run).limit(room)).all() if room else []
        may_suspect = not _doubtful(connection, suspects)
        for row in roots:
            crashed = row.executor is not None and row.state == "running"
            struck = crashed and row.now not in _AT_REST
            strikes = 0 if row.progress > row.progress_before else row.strikes + struck
            if struck and strikes > recoveries:
                why = f"its orchestrator died {strikes} times in a row, and it did not get on: it may be what kills them"
                taken.given_up[row.id] = _give_up(connection, row.id, strikes, why)
                continue
            if struck and strikes >= _SUSPECT:
                if not may_suspect:
                    continue
                may_suspect = False
                taken.suspects.append(row.id)
            if not _claim(connection, row, me):
                continue
            values: dict[str, Any] = {"executor": me}
            if crashed:
                values |= {
                    "recoveries": runs.c.recoveries + 1,
                    "strikes": strikes,
                    "progress_before": row.progress,
                }
            connection.execute(sa.update(runs).where(runs.c.id == row.id).values(**values))
            taken.walks.append(row.id)
            taken.runs[row.id] = row.id
        root = walks.alias()
        led = sa.exists().where(
            root.c.id == walks.c.run, root.c.executor.is_not(None), root.c.executor.not_in(dead)
        )
        beside = query.where(walks.c.id != walks.c.run, led).limit(_BESIDE)
        for row in connection.execute(beside).all():
            if _claim(connection, row, me):
                taken.walks.append(row.id)
                taken.runs[row.id] = row.run
        _forget(connection, dead)
        return taken

    return write


def _doubtful(connection: sa.Connection, suspects: Collection[str]) -> bool:
    """Whether one of them may yet be what kills: it is at the step where it was, and does not only wait."""
    import sqlalchemy as sa

    runs = tables().runs
    query = sa.select(runs.c.id).where(
        runs.c.id.in_(suspects), runs.c.progress == runs.c.progress_before, state_of().not_in(_AT_REST)
    )
    return bool(suspects) and connection.execute(query.limit(1)).first() is not None


def let_go(walk_: str, me: str, reason: str, recoveries: int) -> Callable[[sa.Connection], None]:
    """Leave a walk that broke off to whoever takes it; a run that always breaks off where it is is given up."""

    def write(connection: sa.Connection) -> None:
        import sqlalchemy as sa

        walks, runs = tables().walks, tables().runs
        done = connection.execute(
            sa.update(walks)
            .where(walks.c.id == walk_, walks.c.executor == me, walks.c.ended.is_(False))
            .values(executor=None)
        )
        if not done.rowcount:
            return
        of_walk = sa.select(walks.c.run).where(walks.c.id == walk_).scalar_subquery()
        row = connection.execute(sa.select(runs).where(runs.c.id == of_walk)).mappings().first()
        if row is None or row["state"] in ENDED:
            return
        strikes = 0 if row["progress"] > row["progress_before"] else row["strikes"] + 1
        if strikes > recoveries:
            _give_up(
                connection,
                row["id"],
                strikes,
                f"it broke off {strikes} times in a row, last with {reason[:1000]}",
            )
            return
        connection.execute(
            sa.update(runs)
            .where(runs.c.id == row["id"])
            .values(recoveries=runs.c.recoveries + 1, strikes=strikes, progress_before=row["progress"])
        )

    return write


def _claim(connection: sa.Connection, row: Any, me: str) -> bool:
    import sqlalchemy as sa

    walks = tables().walks
    same = walks.c.executor.is_(None) if row.executor is None else walks.c.executor == row.executor
    done = connection.execute(
        sa.update(walks).where(walks.c.id == row.id, same, walks.c.ended.is_(False)).values(executor=me)
    )
    return done.rowcount > 0


def _give_up(connection: sa.Connection, run: str, strikes: int, why: str) -> list[str]:
    import sqlalchemy as sa

    all_ = tables()
    now = time.time()
    message = f"{why}. Look at the step it was in; then 'roster run resume {run}' takes it up again"
    error = {"code": "ABORTED", "type": "GivenUp", "message": message}
    connection.execute(
        sa.update(all_.runs)
        .where(all_.runs.c.id == run)
        .values(state="dead", ended_at=now, error=to_json(error), strikes=strikes)
    )
    walks = list(
        map(
            str,
            connection.execute(
                sa.select(all_.walks.c.id).where(all_.walks.c.run == run, all_.walks.c.ended.is_(False))
            ).scalars(),
        )
    )
    # Not `end`: these walks may go on one day.
    connection.execute(
        sa.update(all_.walks).where(all_.walks.c.id.in_(walks)).values(ended=True, executor=None)
    )
    return walks


def _forget(connection: sa.Connection, dead: Sequence[str]) -> None:
    """Take the dead off the record, once they hold nothing any more."""
    import sqlalchemy as sa

    all_ = tables()
    holds = sa.exists().where(all_.walks.c.executor == all_.executors.c.id, all_.walks.c.ended.is_(False))
    for part in _parts(dead):
        connection.execute(sa.delete(all_.executors).where(all_.executors.c.id.in_(part), ~holds))


def _parts(names: Sequence[str]) -> list[Sequence[str]]:
    return [names[at : at + _PART] for at in range(0, len(names), _PART)]
