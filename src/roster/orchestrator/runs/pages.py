"""What stands in the book of runs: runs, their steps, states and cards. It needs no engine, only the database."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from roster.errors import RunNotFoundError
from roster.orchestrator.runs.database import RunsUrl, open_engine, reached, tables
from roster.orchestrator.runs.record import ENDED, RunRecord, RunState, StepRecord, moment
from roster.registry.holder import Holder

if TYPE_CHECKING:
    import sqlalchemy as sa

# How long a run may wait for an orchestrator, and a step past its timeout, before that is called stuck.
_PATIENCE = 15.0


class Pages:
    """The database of runs, for whoever looks. Its methods block; threads may share it.

    Args:
        url: as `ROSTER_RUNS`.

    Raises:
        ConfigError: the URL is wrong, or the packages are not installed.
        RunsUnavailableError: the database cannot be used.
    """

    def __init__(self, url: str | None = None) -> None:
        self.url = RunsUrl.parse(url)
        self.engine = open_engine(self.url)

    def close(self) -> None:
        """Close its connections."""
        self.engine.dispose()

    def get(self, run: str) -> RunRecord:
        """Return a run with its steps.

        Raises:
            RunNotFoundError: there is none.
        """
        import sqlalchemy as sa

        runs, steps = tables().runs, tables().steps
        with reached(self.url), self.engine.connect() as connection:
            row = connection.execute(_looked_at().where(runs.c.id == run)).mappings().first()
            if row is None:
                raise no_run(run)
            found = connection.execute(
                sa.select(steps).where(steps.c.run == run).order_by(steps.c.number)
            ).mappings()
            every = [dict(one) for one in found]
            holder = self._holder(connection, row["executor"])
        return _record(dict(row), holder, every)

    def list(
        self,
        *,
        states: Sequence[RunState] = (),
        card: str | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> list[RunRecord]:
        """Return runs, the youngest first, without their steps.

        Args:
            states: only these.
            card: only runs of the card of this name.
            limit: at most so many.
            before: only runs older than the one with this id: the last of the page before.
        """
        import sqlalchemy as sa

        runs = tables().runs
        query = _looked_at().order_by(runs.c.created_at.desc(), runs.c.id.desc()).limit(limit)
        if states:
            query = query.where(state_of().in_(states))
        if card is not None:
            query = query.where(runs.c.card == card)
        with reached(self.url), self.engine.connect() as connection:
            if before is not None:
                at = connection.execute(sa.select(runs.c.created_at).where(runs.c.id == before)).scalar()
                if at is None:
                    raise no_run(before)
                query = query.where(sa.tuple_(runs.c.created_at, runs.c.id) < sa.tuple_(at, before))
            rows = [dict(row) for row in connection.execute(query).mappings()]
            holders = {
                executor: self._holder(connection, executor) for executor in {row["executor"] for row in rows}
            }
        return [_record(row, holders[row["executor"]]) for row in rows]

    def state(self, run: str) -> RunState:
        """Return only how a run is.

        Raises:
            RunNotFoundError: there is none.
        """
        import sqlalchemy as sa

        runs = tables().runs
        with reached(self.url), self.engine.connect() as connection:
            state = connection.execute(sa.select(state_of()).where(runs.c.id == run)).scalar()
        if state is None:
            raise no_run(run)
        return cast("RunState", state)

    def card(self, digest: str) -> str:
        """Return the document of a card as JSON, as it was when a run began with it.

        Raises:
            RunNotFoundError: no run has begun with it.
        """
        import sqlalchemy as sa

        cards = tables().cards
        with reached(self.url), self.engine.connect() as connection:
            text: str | None = connection.execute(
                sa.select(cards.c.document).where(cards.c.digest == digest)
            ).scalar()
        if text is None:
            raise RunNotFoundError(f"no run has begun with the card {digest[:80]}")
        return text

    def counts(self) -> dict[str, int]:
        """Return how many runs are in each state."""
        import sqlalchemy as sa

        with reached(self.url), self.engine.connect() as connection:
            looked = sa.select(state_of().label("state")).subquery()
            found = connection.execute(sa.select(looked.c.state, sa.func.count()).group_by(looked.c.state))
            return {str(state): int(count) for state, count in found}

    def paused_cards(self) -> dict[str, str]:
        """Return the cards whose runs stand still, and since when."""
        import sqlalchemy as sa

        with reached(self.url), self.engine.connect() as connection:
            found = connection.execute(sa.select(tables().pauses)).all()
        return {str(card): moment(at) or "" for card, at in found}

    def _holder(self, connection: sa.Connection, executor: str | None) -> Holder | None:
        import sqlalchemy as sa

        if executor is None:
            return None
        executors = tables().executors
        text = connection.execute(sa.select(executors.c.holder).where(executors.c.id == executor)).scalar()
        return None if text is None else Holder.from_dict(json.loads(text))


def no_run(run: str) -> RunNotFoundError:
    return RunNotFoundError(f"no run {run[:200]}: see 'roster get runs'")


def _value(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def state_of() -> sa.ColumnElement[str]:
    """How a run is: while it runs, what its steps say."""
    import sqlalchemy as sa

    runs, steps, pauses = tables().runs, tables().steps, tables().pauses
    of_run = sa.exists().where(steps.c.run == runs.c.id)
    paused = sa.or_(runs.c.paused, sa.exists().where(pauses.c.card == runs.c.card))
    return sa.case(
        (runs.c.state != "running", runs.c.state),
        (of_run.where(steps.c.state == "running", steps.c.kind == "action"), "running"),
        (paused, "paused"),
        (of_run.where(steps.c.state == "waiting"), "waiting"),
        else_="running",
    )


def _looked_at() -> sa.Select[Any]:
    """Return a query for runs with how they are, and what they wait for: a person first, else what came first."""
    import sqlalchemy as sa

    runs, steps = tables().runs, tables().steps
    asks = [steps.c.waiting.startswith(f'{{"kind":"{kind}"') for kind in ("approval", "escalation")]
    person = sa.case((sa.or_(*asks), 0), else_=1)
    waiting = (
        sa.select(steps.c.waiting)
        .where(steps.c.run == runs.c.id, steps.c.state == "waiting")
        .order_by(person, steps.c.number)
        .limit(1)
        .scalar_subquery()
    )
    return sa.select(runs, state_of().label("now"), waiting.label("waiting"))


def _record(
    row: Mapping[str, Any], holder: Holder | None, steps: Sequence[Mapping[str, Any]] = ()
) -> RunRecord:
    every = tuple(_step(one) for one in steps)
    return RunRecord(
        id=row["id"],
        card=row["card"],
        card_version=row["card_version"],
        digest=row["digest"],
        state=row["now"],
        inputs=_value(row["inputs"]),
        result=_value(row["result"]),
        error=_value(row["error"]),
        created_at=moment(row["created_at"]),
        started_at=moment(row["started_at"]),
        ended_at=moment(row["ended_at"]),
        last_progress_at=moment(row["last_progress_at"]),
        executor=row["executor"],
        recoveries=row["recoveries"],
        waiting=_value(row["waiting"]),
        stuck=_stuck(row, holder, steps),
        steps=every,
    )


def _stuck(row: Mapping[str, Any], holder: Holder | None, steps: Sequence[Mapping[str, Any]]) -> str | None:
    """Say why a run does not get on though it should."""
    now = time.time()
    if row["state"] in ENDED:
        return None
    since = max(row["created_at"], row["last_progress_at"] or 0.0, row["started_at"] or 0.0)
    if row["executor"] is None or (holder is None and now - since > _PATIENCE):
        if now - since > _PATIENCE:
            return "no orchestrator has taken it up: start one with 'roster orchestrate'"
    elif holder is not None and holder.liveness() == "dead":
        return f"its orchestrator ({holder}) is gone, and no other has taken it up yet: start one with 'roster orchestrate'"
    if row["state"] != "running":
        return None
    for step in steps:
        if step["state"] == "running" and step["timeout"] and step["started_at"]:
            over = now - step["started_at"] - step["timeout"]
            if over > _PATIENCE:
                return f"the step {step['key']} has been at it for {over:.0f} s longer than its timeout"
    return None


def _step(row: Mapping[str, Any]) -> StepRecord:
    return StepRecord(
        key=row["key"],
        id=row["id"],
        visit=row["visit"],
        kind=row["kind"],
        state=row["state"],
        action=row["action"],
        node=row["node"],
        attempts=tuple(_value(row["attempts"]) or ()),
        started_at=moment(row["started_at"]),
        dispatched_at=moment(row["dispatched_at"]),
        ended_at=moment(row["ended_at"]),
        redispatched=row["redispatched"],
        waiting=_value(row["waiting"]),
        error=_value(row["error"]),
        parent=row["parent"],
    )
