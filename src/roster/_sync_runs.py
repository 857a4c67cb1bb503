"""The runs of process cards for code that is not async: `roster.sync.Orchestrator.runs`."""

from __future__ import annotations

from roster.orchestrator.runs.runs import Runs as AsyncRuns
from roster.sync import _Facade, _iterating, _waiting


class Runs(_Facade[AsyncRuns]):
    """See `roster.Orchestrator.runs`. Closed with its orchestrator."""

    start = _waiting(AsyncRuns.start)
    run = _waiting(AsyncRuns.run)
    wait = _waiting(AsyncRuns.wait)
    watch = _iterating(AsyncRuns.watch)
    get = _waiting(AsyncRuns.get)
    list = _waiting(AsyncRuns.list)
    cancel = _waiting(AsyncRuns.cancel)
    approve = _waiting(AsyncRuns.approve)
    reject = _waiting(AsyncRuns.reject)
    skip = _waiting(AsyncRuns.skip)
    signal = _waiting(AsyncRuns.signal)
    pause = _waiting(AsyncRuns.pause)
    resume = _waiting(AsyncRuns.resume)
    pause_card = _waiting(AsyncRuns.pause_card)
    resume_card = _waiting(AsyncRuns.resume_card)
