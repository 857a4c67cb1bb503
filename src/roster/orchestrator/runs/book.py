"""The book of runs: what is read in it, and what people write into it. It needs no engine, only the database."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, cast

from roster.errors import RunConflictError, RunNotFoundError
from roster.orchestrator.runs.database import RunsUrl, open_engine, reached, tables
from roster.orchestrator.runs.record import ENDED, RunRecord, RunState, StepRecord, moment
from roster.registry.holder import Holder

if TYPE_CHECKING:
    import sqlalchemy as sa

T = TypeVar("T")
Answer: TypeAlias = Literal["approve", "reject"]
MAX_SIGNAL = 1024 * 1024
MAX_SIGNALS = 10_000
# How long a run may wait for an orchestrator, and a step past its timeout, before that is called stuck.
_PATIENCE = 15.0


class Book:
    """The database of runs, for whoever looks, says yes or no, or stops a run. Its methods block; threads may share it.

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

    # -- reading --------------------------------------------------------------------------------------------------

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
                raise _none(run)
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
                    raise _none(before)
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
            raise _none(run)
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

    # -- saying something to a run --------------------------------------------------------------------------------

    def cancel(self, run: str, reason: str = "") -> RunRecord:
        """End a run. What runs for it is stopped by its orchestrator within a second.

        Raises:
            RunNotFoundError: there is none.
            RunConflictError: it has ended already.
        """

        def write(connection: sa.Connection) -> None:
            import sqlalchemy as sa

            now = time.time()
            runs, walks, steps = tables().runs, tables().walks, tables().steps
            error = {"code": "CANCELLED", "type": "Cancelled", "message": reason[:1000] or "cancelled"}
            done = connection.execute(
                sa.update(runs)
                .where(runs.c.id == run, runs.c.state.notin_(ENDED))
                .values(state="cancelled", ended_at=now, error=_json(error))
            )
            if not done.rowcount:
                self._not_now(connection, run, "cannot be cancelled")
            connection.execute(sa.update(walks).where(walks.c.run == run).values(ended=True))
            connection.execute(
                sa.update(steps)
                .where(steps.c.run == run, steps.c.state.in_(("running", "waiting")))
                .values(state="cancelled", ended_at=now, waiting=None)
            )

        self.write(write)
        return self.get(run)

    def answer(
        self,
        run: str,
        answer: Answer,
        step: str | None = None,
        *,
        by: str = "",
        comment: str = "",
        data: Any = None,
    ) -> None:
        """Say yes or no to a run that waits for a person: at a `human_checkpoint`, or after a failure (`escalate`), where
        yes tries the step again and no fails the run.

        Args:
            step: id or key of the step; None is whichever waits, if it is just one.
            by: who says it.
            comment: why.
            data: further JSON, for the card.

        Raises:
            RunNotFoundError: there is none.
            RunConflictError: no step of it waits for a person; or several do, and none is named.
        """
        waiting = self._waiting(run, step)
        said: dict[str, Any] = {"approved": answer == "approve", "by": by[:255], "comment": comment[:10_000]}
        if isinstance(data, Mapping):
            said = {**data, **said}
        elif data is not None:
            said["data"] = data
        self._say(run, "approval", waiting, said)

    def go_on(self, run: str, step: str | None = None, *, by: str = "", comment: str = "") -> None:
        """Have a run that waits after a failure (`escalate`) go on behind the step, without its output.

        Raises:
            RunNotFoundError: there is none.
            RunConflictError: no step of it waits for that.
        """
        waiting = self._waiting(run, step, kinds=("escalation",))
        self._say(run, "approval", waiting, {"approved": None, "by": by[:255], "comment": comment[:10_000]})

    def signal(self, run: str, event: str, data: Any = None) -> None:
        """Send a run the event that it waits for, or will: events are kept until a step takes them.

        Raises:
            RunNotFoundError: there is none.
            RunConflictError: it has ended; too many events wait already, or this one is too large.
        """
        self._say(run, "event", event[:1000], data)

    def pause_card(self, card: str) -> int:
        """Have all runs of a card stand still before their next step; return how many there are now."""
        import sqlalchemy as sa

        def write(connection: sa.Connection) -> int:
            pauses, runs = tables().pauses, tables().runs
            if connection.execute(sa.select(pauses.c.card).where(pauses.c.card == card)).first() is None:
                connection.execute(sa.insert(pauses).values(card=card, at=time.time()))
            query = sa.select(sa.func.count()).where(runs.c.card == card, runs.c.state.notin_(ENDED))
            return int(connection.execute(query).scalar() or 0)

        return self.write(write)

    def resume_card(self, card: str) -> bool:
        """Let the runs of a card go on; return whether they stood still."""
        import sqlalchemy as sa

        pauses = tables().pauses
        return self.write(
            lambda connection: bool(
                connection.execute(sa.delete(pauses).where(pauses.c.card == card)).rowcount
            )
        )

    def pause(self, run: str, paused: bool) -> None:
        """Have one run stand still before its next step, or go on.

        Raises:
            RunNotFoundError: there is none.
            RunConflictError: it has ended.
        """
        import sqlalchemy as sa

        runs = tables().runs

        def write(connection: sa.Connection) -> None:
            done = connection.execute(
                sa.update(runs).where(runs.c.id == run, runs.c.state.notin_(ENDED)).values(paused=paused)
            )
            if not done.rowcount:
                self._not_now(connection, run, "cannot be paused" if paused else "cannot go on")

        self.write(write)

    def revive(self, run: str) -> None:
        """Give a run that was given up (`dead`) to the orchestrators again, at the step where it was.

        Raises:
            RunNotFoundError: there is none.
            RunConflictError: it is not dead.
        """
        import sqlalchemy as sa

        runs, walks = tables().runs, tables().walks

        def write(connection: sa.Connection) -> None:
            done = connection.execute(
                sa.update(runs)
                .where(runs.c.id == run, runs.c.state == "dead")
                .values(
                    state="pending",
                    ended_at=None,
                    error=None,
                    strikes=0,
                    progress_before=runs.c.progress,
                    executor=None,
                )
            )
            if not done.rowcount:
                self._not_now(connection, run, "cannot be taken up again: only dead runs can")
            connection.execute(sa.update(walks).where(walks.c.run == run).values(ended=False, executor=None))

        self.write(write)

    def prune(self, older_than: float) -> int:
        """Remove runs that ended more than so many seconds ago; return how many.

        What the engine has kept of them is removed by the next orchestrator: only that has the engine.
        """
        import sqlalchemy as sa

        all_ = tables()

        def write(connection: sa.Connection) -> list[str]:
            old = connection.execute(
                sa.select(all_.runs.c.id)
                .where(all_.runs.c.state.in_(ENDED), all_.runs.c.ended_at < time.time() - older_than)
                .limit(1000)
            )
            ids = [str(one) for one in old.scalars()]
            for part in (ids[at : at + 200] for at in range(0, len(ids), 200)):
                for table in (all_.steps, all_.signals):
                    connection.execute(sa.delete(table).where(table.c.run.in_(part)))
                connection.execute(sa.delete(all_.runs).where(all_.runs.c.id.in_(part)))
            connection.execute(
                sa.delete(all_.cards).where(
                    ~sa.exists().where(
                        sa.or_(
                            all_.runs.c.digest == all_.cards.c.digest,
                            all_.runs.c.cards.contains(all_.cards.c.digest),
                        )
                    )
                )
            )
            return ids

        removed = 0
        while ids := self.write(write):
            removed += len(ids)
            if len(ids) < 1000:
                break
        return removed

    # -- inside ---------------------------------------------------------------------------------------------------

    def write(self, write: Callable[[sa.Connection], T]) -> T:
        """Do something in one transaction."""
        with reached(self.url), self.engine.begin() as connection:
            return write(connection)

    def _say(self, run: str, kind: str, name: str, data: Any) -> None:
        import sqlalchemy as sa

        text = _json(data)
        if len(text) > MAX_SIGNAL:
            raise RunConflictError(
                f"{len(text)} bytes are more than the {MAX_SIGNAL} that may be said to a run: hand large data over by "
                "reference"
            )
        signals, runs = tables().signals, tables().runs

        def write(connection: sa.Connection) -> None:
            query = sa.select(runs.c.state).where(runs.c.id == run)
            state = connection.execute(query).scalar()
            if state is None or state in ENDED:
                self._not_now(connection, run, "hears nothing any more")
            kept = connection.execute(
                sa.select(sa.func.count()).where(signals.c.run == run, signals.c.taken.is_(None))
            ).scalar()
            if int(kept or 0) >= MAX_SIGNALS:
                raise RunConflictError(f"{MAX_SIGNALS} events wait for {run} already, and no step takes them")
            connection.execute(
                sa.insert(signals).values(run=run, kind=kind, name=name, data=text, at=time.time())
            )

        self.write(write)

    def _waiting(self, run: str, step: str | None, kinds: Sequence[str] = ("approval", "escalation")) -> str:
        record = self.get(run)
        if record.ended:
            raise RunConflictError(f"{run} has ended: {record.state}")
        asked = [one for one in record.steps if one.waiting is not None and one.waiting["kind"] in kinds]
        named = [one for one in asked if step is None or step in (one.id, one.key)]
        if len(named) == 1:
            return named[0].key
        if not asked:
            raise RunConflictError(f"no step of {run} waits for a person; it is {record.state}")
        keys = ", ".join(one.key for one in asked[:10])
        if not named:
            raise RunConflictError(f"the step {step} of {run} does not wait for a person: these do: {keys}")
        raise RunConflictError(f"several steps of {run} wait for a person, name one of them: {keys}")

    def _not_now(self, connection: sa.Connection, run: str, what: str) -> None:
        import sqlalchemy as sa

        runs = tables().runs
        state = connection.execute(sa.select(runs.c.state).where(runs.c.id == run)).scalar()
        if state is None:
            raise _none(run)
        raise RunConflictError(f"{run} {what}: it is {state}")

    def _holder(self, connection: sa.Connection, executor: str | None) -> Holder | None:
        import sqlalchemy as sa

        if executor is None:
            return None
        executors = tables().executors
        text = connection.execute(sa.select(executors.c.holder).where(executors.c.id == executor)).scalar()
        return None if text is None else Holder.from_dict(json.loads(text))


def _none(run: str) -> RunNotFoundError:
    return RunNotFoundError(f"no run {run[:200]}: see 'roster get runs'")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


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
