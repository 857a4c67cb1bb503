"""Two processes that want one name at the same moment, on real servers."""

from __future__ import annotations

import statistics
from collections import Counter

from chaos.helper import helper
from chaos.report import Options, Report
from chaos.stores import on_each, server_of
from roster.registry.keys import NODES, STATUS, node_key, status_key
from roster.registry.status import NodeStatus
from roster.store import open_store

ROUNDS = 50
TAKEOVER_EACH = 5
TTL = 3.0


async def name_race(options: Options) -> Report:
    """A name raced for by two processes 50 times on each store; in every fifth race one of them may take it over."""

    async def one(engine: str) -> Report:
        report = Report()
        wrong: list[str] = []
        seconds: list[float] = []
        losers: Counter[str] = Counter()
        displaced = 0
        async with (
            server_of(engine) as (server, directory),
            helper("chaos.racer", directory, "left", server.url, str(TTL)) as left,
            helper("chaos.racer", directory, "right", server.url, str(TTL)) as right,
            open_store(server.url) as store,
        ):
            racers = (left, right)
            for racer in racers:
                await racer.until("ready")
            for number in range(ROUNDS):
                name = f"race-{number}"
                taking = number % TAKEOVER_EACH == 0
                # Either has the head start of the first word in half of the races.
                first, second = racers if number % 2 else (right, left)
                taker = left if taking else None
                for racer in (first, second):
                    racer.say(f"{'take' if racer is taker else 'race'} {name}")
                outcomes = [await racer.until("outcome", name=name) for racer in racers]
                seconds += [outcome["seconds"] for outcome in outcomes]
                losers.update(outcome["why"] for outcome in outcomes if outcome["why"])
                winners = [outcome["uid"] for outcome in outcomes if outcome["uid"]]
                if taker is not None and len(winners) == 2:
                    # The other had it first. It learns of its loss with its next keep-alive.
                    await right.until("displaced", name=name)
                    displaced += 1
                    winners = [outcomes[0]["uid"]]
                status = await store.get(status_key("chaos", name))
                passport = await store.get(node_key("chaos", name))
                holder = NodeStatus.decode(status.value, status.key).uid if status is not None else ""
                if winners != [holder] or passport is None:
                    wrong.append(f"{name}: {len(winners)} hold it, the store says {holder or 'nobody'}")
                if taker is not None and not outcomes[0]["uid"]:
                    wrong.append(f"{name}: the takeover failed: {outcomes[0]['text']}")
                for racer in racers:
                    racer.say(f"leave {name}")
                for racer in racers:
                    await racer.until("left", name=name)
            left_over = [
                entry.key for prefix in (NODES, STATUS) for entry in (await store.list(prefix)).entries
            ]
        ordered = sorted(seconds)
        report.fact(
            "from the start to the answer, p50 / p99 / worst",
            f"{statistics.median(ordered) * 1e3:.0f} / {ordered[int(len(ordered) * 0.99)] * 1e3:.0f} / "
            f"{ordered[-1] * 1e3:.0f} ms",
        )
        report.fact("losers were told", dict(losers))
        report.fact("takeovers of one who had it already", f"{displaced} of {ROUNDS // TAKEOVER_EACH}")
        for text in wrong[:5]:
            report.fact("wrong", text)
        report.promise(f"{ROUNDS} races, exactly one holds the name after each", not wrong)
        report.promise(
            "every loser hears NameConflictError, or is displaced by a takeover",
            set(losers) <= {"NameConflictError"} and losers.total() + displaced == ROUNDS,
        )
        report.promise("nothing is left behind", not left_over)
        return report

    return await on_each(options.stores, one)
