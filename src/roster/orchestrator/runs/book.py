"""The book of runs: what people write into it. It needs no engine, only the database."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from roster.errors import RunConflictError
from roster.orchestrator.runs.database import reached, tables
from roster.orchestrator.runs.pages import Pages, no_run
from roster.orchestrator.runs.record import ENDED, RunRecord

if TYPE_CHECKING:
    import sqlalchemy as sa

T = TypeVar("T")
Answer: TypeAlias = Literal["approve", "reject"]
MAX_SIGNAL = 1024 * 1024
MAX_SIGNALS = 10_000


class Book(Pages):
    """The same for whoever says yes or no, or stops a run, as well."""

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
            raise no_run(run)
        raise RunConflictError(f"{run} {what}: it is {state}")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
