"""The single writes of an executor, each a function of a connection: what a walk puts on record, and what it may not do."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from roster.cards import ActionStep, Step
from roster.errors import RunConflictError
from roster.orchestrator.runs.database import tables
from roster.orchestrator.runs.record import ENDED, RunState
from roster.orchestrator.runs.world import Error, Place

if TYPE_CHECKING:
    import sqlalchemy as sa

Write = Callable[["sa.Connection"], Any]


class GivenAwayError(RunConflictError):
    """The walk is another executor's now, or over."""


def to_json(value: Any) -> str:
    """Return a value as it stands in the tables."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def kind_of(step: Step) -> str:
    """Return what a card calls this kind of step."""
    return {"CheckpointStep": "human_checkpoint"}.get(
        type(step).__name__, type(step).__name__.removesuffix("Step").lower()
    )


def insert_new(table: sa.Table, connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> int:
    """Insert rows; those that are there stay as they are. Return how many were new."""
    if connection.dialect.name == "sqlite":
        from sqlalchemy.dialects.sqlite import insert
    else:
        from sqlalchemy.dialects.postgresql import insert  # type: ignore[assignment]  # the same method
    done = 0
    for row in rows:
        new = insert(table).values(**row).on_conflict_do_nothing()
        # Without the option an INSERT has the row count -1 on PostgreSQL.
        done += connection.execute(new, execution_options={"preserve_rowcount": True}).rowcount
    return done


def begin_walk(walk: str, run: str, executor: str, *, root: bool) -> Write:
    """Begin a walk that is this executor's. Raises `GivenAwayError` if it is over, or another's by now."""

    def write(connection: sa.Connection) -> None:
        import sqlalchemy as sa

        walks, runs = tables().walks, tables().runs
        taken = connection.execute(
            sa.update(walks)
            .where(walks.c.id == walk, walks.c.executor == executor, walks.c.ended.is_(False))
            .values(executor=executor)
        )
        if not taken.rowcount:
            raise GivenAwayError(f"{walk} is over, or not ours any more")
        if root:
            connection.execute(
                sa.update(runs)
                .where(runs.c.id == run, runs.c.state.notin_(ENDED))
                .values(
                    executor=executor,
                    state="running",
                    started_at=sa.func.coalesce(runs.c.started_at, time.time()),
                )
            )

    return write


def enter_step(run: str, place: Place, step: Step, number: int) -> Write:
    """Put a step on record, unless it is."""
    row = {
        "run": run,
        "key": place.key,
        "number": number,
        "id": place.step,
        "visit": place.visit,
        "kind": kind_of(step),
        "action": step.action if isinstance(step, ActionStep) else None,
        "parent": place.parent,
        "state": "running",
        "started_at": time.time(),
        "timeout": step.timeout if isinstance(step, ActionStep) else None,
    }
    return lambda connection: insert_new(tables().steps, connection, [row])


def leave_step(
    run: str, place: Place, state: str, error: Error | None, attempts: Sequence[Mapping[str, Any]]
) -> Write:
    """Put the end of a step on record; the first time is what counts."""
    values: dict[str, Any] = {"state": state, "waiting": None}
    if error is not None:
        values["error"] = to_json(error)
    if attempts:
        values["attempts"] = to_json(attempts)

    def write(connection: sa.Connection) -> None:
        import sqlalchemy as sa

        now = time.time()
        steps, runs = tables().steps, tables().runs
        done = connection.execute(
            sa.update(steps)
            .where(steps.c.run == run, steps.c.key == place.key, steps.c.ended_at.is_(None))
            .values(ended_at=now, **values)
        )
        if done.rowcount:
            connection.execute(
                sa.update(runs)
                .where(runs.c.id == run)
                .values(progress=runs.c.progress + 1, last_progress_at=now)
            )

    return write


def dispatch(walk: str, run: str, key: str, executor: str, node: str, uid: str) -> Write:
    """Put on record which node gets a step's work, before it does. Raises `GivenAwayError` if the walk is not ours."""

    def write(connection: sa.Connection) -> None:
        import sqlalchemy as sa

        walks, steps = tables().walks, tables().steps
        ours = connection.execute(
            sa.select(walks.c.id).where(
                walks.c.id == walk, walks.c.executor == executor, walks.c.ended.is_(False)
            )
        ).first()
        if ours is None:
            raise GivenAwayError(f"{walk} is not ours any more")
        connection.execute(
            sa.update(steps)
            .where(steps.c.run == run, steps.c.key == key)
            .values(
                node=node,
                node_uid=uid,
                state="running",
                waiting=None,
                redispatched=steps.c.redispatched + sa.case((steps.c.dispatched_at.is_(None), 0), else_=1),
                dispatched_at=sa.func.coalesce(steps.c.dispatched_at, time.time()),
            )
        )

    return write


def note_step(run: str, key: str, **values: Any) -> Write:
    """Change what is known of a step that has not ended."""

    def write(connection: sa.Connection) -> None:
        import sqlalchemy as sa

        steps = tables().steps
        connection.execute(
            sa.update(steps)
            .where(steps.c.run == run, steps.c.key == key, steps.c.ended_at.is_(None))
            .values(**values)
        )

    return write


def new_walk(walk: str, run: str, order: Mapping[str, Any], parent: str, executor: str) -> Write:
    """Put a walk beside its parent on record, unless it is. Raises `GivenAwayError` if the parent is not ours."""
    row = {"id": walk, "run": run, "order": to_json(order), "executor": executor, "ended": False}

    def write(connection: sa.Connection) -> bool:
        import sqlalchemy as sa

        walks = tables().walks
        ours = connection.execute(
            sa.select(walks.c.id).where(
                walks.c.id == parent, walks.c.executor == executor, walks.c.ended.is_(False)
            )
        ).first()
        if ours is None:
            raise GivenAwayError(f"{parent} is not ours any more")
        return insert_new(walks, connection, [row]) > 0

    return write


def end_walk(walk: str, end: Mapping[str, Any]) -> Write:
    """Put on record how a walk ended; the first word counts."""

    def write(connection: sa.Connection) -> bool:
        import sqlalchemy as sa

        walks = tables().walks
        done = connection.execute(
            sa.update(walks)
            .where(walks.c.id == walk, walks.c.ended.is_(False))
            .values(ended=True, end=to_json(end))
        )
        return done.rowcount > 0

    return write


def stop_walks(run: str, walks_: Collection[str]) -> Write:
    """End walks that others have made needless, with all that is inside them."""

    def write(connection: sa.Connection) -> list[str]:
        import sqlalchemy as sa

        walks, steps = tables().walks, tables().steps
        stopped: list[str] = []
        for walk in walks_:
            inside = sa.or_(walks.c.id == walk, walks.c.id.startswith(f"{walk}/", autoescape=True))
            mine = sa.and_(walks.c.run == run, inside, walks.c.ended.is_(False))
            stopped += connection.execute(sa.select(walks.c.id).where(mine)).scalars()
            connection.execute(
                sa.update(walks).where(mine).values(ended=True, end=to_json({"how": "cancelled"}))
            )
            prefix = walk[len(run) + 1 :] + "/"
            connection.execute(
                sa.update(steps)
                .where(
                    steps.c.run == run,
                    steps.c.key.startswith(prefix, autoescape=True),
                    steps.c.ended_at.is_(None),
                )
                .values(state="cancelled", ended_at=time.time(), waiting=None)
            )
        return stopped

    return write


def let_go_all(walks_: Collection[str], executor: str) -> Write:
    """Leave walks that have not begun to whoever takes them."""

    def write(connection: sa.Connection) -> None:
        import sqlalchemy as sa

        walks = tables().walks
        mine = sa.and_(walks.c.id.in_(walks_), walks.c.executor == executor, walks.c.ended.is_(False))
        connection.execute(sa.update(walks).where(mine).values(executor=None))

    return write


def forget_walks(walks_: Collection[str]) -> Write:
    """Remove walks of which the engine knows nothing any more."""

    def write(connection: sa.Connection) -> None:
        import sqlalchemy as sa

        walks = tables().walks
        connection.execute(sa.delete(walks).where(walks.c.id.in_(walks_)))

    return write


def end_run(run: str, state: RunState, result: Any, error: Error | None, end: Mapping[str, Any]) -> Write:
    """Put on record how a run ended; the first word counts. Returns whether this was it."""

    def write(connection: sa.Connection) -> bool:
        import sqlalchemy as sa

        now = time.time()
        runs, walks, steps, signals = tables().runs, tables().walks, tables().steps, tables().signals
        done = connection.execute(
            sa.update(runs)
            .where(runs.c.id == run, runs.c.state.notin_(ENDED))
            .values(
                state=state,
                result=to_json(result),
                error=None if error is None else to_json(error),
                ended_at=now,
                last_progress_at=now,
            )
        )
        connection.execute(
            sa.update(walks)
            .where(walks.c.run == run, walks.c.ended.is_(False))
            .values(ended=True, end=to_json(end))
        )
        connection.execute(
            sa.update(steps)
            .where(steps.c.run == run, steps.c.ended_at.is_(None))
            .values(state="cancelled", ended_at=now, waiting=None)
        )
        connection.execute(sa.delete(signals).where(signals.c.run == run))
        return done.rowcount > 0

    return write


def take_signal(run: str, kind: str, name: str, by: str) -> Write:
    """Take the oldest signal of a name for one wait, the same again if that has taken one; return `(found, data)`."""

    def write(connection: sa.Connection) -> tuple[bool, Any]:
        import sqlalchemy as sa

        signals = tables().signals
        query = (
            sa.select(signals.c.number, signals.c.data)
            .where(
                signals.c.run == run,
                signals.c.kind == kind,
                signals.c.name == name,
                sa.or_(signals.c.taken.is_(None), signals.c.taken == by),
            )
            # What it has taken before comes first: it was killed before it could say so.
            .order_by(signals.c.taken.is_(None), signals.c.number)
            .limit(1)
        )
        row = connection.execute(query).first()
        if row is None:
            return False, None
        connection.execute(sa.update(signals).where(signals.c.number == row.number).values(taken=by))
        return True, json.loads(row.data)

    return write
