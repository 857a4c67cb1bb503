"""The runs of process cards for code that is not async: `roster.sync.Orchestrator.runs`."""

from __future__ import annotations

from roster._portal import Facade, iterating, waiting
from roster.orchestrator.runs.runs import Runs as AsyncRuns


class Runs(Facade[AsyncRuns]):
    """See `roster.Orchestrator.runs`. Closed with its orchestrator."""

    start = waiting(AsyncRuns.start)
    run = waiting(AsyncRuns.run)
    wait = waiting(AsyncRuns.wait)
    watch = iterating(AsyncRuns.watch)
    get = waiting(AsyncRuns.get)
    list = waiting(AsyncRuns.list)
    cancel = waiting(AsyncRuns.cancel)
    approve = waiting(AsyncRuns.approve)
    reject = waiting(AsyncRuns.reject)
    skip = waiting(AsyncRuns.skip)
    signal = waiting(AsyncRuns.signal)
    pause = waiting(AsyncRuns.pause)
    resume = waiting(AsyncRuns.resume)
    pause_card = waiting(AsyncRuns.pause_card)
    resume_card = waiting(AsyncRuns.resume_card)
