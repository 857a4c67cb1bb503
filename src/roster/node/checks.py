"""Checks that withdraw one capability while what it stands on is broken, and leave the others alone."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from roster.bus.failure import named
from roster.errors import ConfigError
from roster.node.threads import Threads

Verdict = Literal["good", "failing", "malformed"]

# A check that raises one of these was written wrong; what it was to look at may be in the best of health.
_MISTAKES = (TypeError, AttributeError, NameError, ImportError, SyntaxError)
_MAX_TEXT = 300


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Attributes:
        verdict: `good`; `failing`: the capability is withdrawn; `malformed`: the check itself is broken, the capability
            stays and the node is marked as degraded.
        text: why, one sentence; empty when good.
    """

    verdict: Verdict
    text: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """A function that looks at one capability.

    It returns None or True when all is well and False when it is not; or it raises. Anything else, and an error that only a
    mistake in it can raise (such as `TypeError`), makes it malformed.

    Args:
        capability: what it looks at.
        function: called without arguments; async, or plain and then on a thread.
        every: seconds between two looks.
        timeout: seconds after which it counts as failing.
    """

    capability: str
    function: Callable[[], Any]
    every: float
    timeout: float

    def __post_init__(self) -> None:
        if not 0.01 <= self.every <= 86_400 or not 0.01 <= self.timeout <= 3600:
            raise ConfigError(
                f"the check of {self.capability}: every is 0.01 to 86400 seconds and timeout 0.01 to 3600 seconds, "
                f"not {self.every:g} and {self.timeout:g}"
            )

    async def look(self, threads: Threads) -> Finding:
        """Make the check once."""
        try:
            async with asyncio.timeout(self.timeout):
                value = await self._call(threads)
        except TimeoutError:
            return Finding("failing", f"the check did not end within {self.timeout:g} s")
        except _MISTAKES as error:
            return Finding("malformed", _say(error))
        except Exception as error:  # noqa: BLE001 - whatever it raises is what it found
            return Finding("failing", _say(error))
        if value is None or value is True:
            return Finding("good")
        if value is False:
            return Finding("failing", "the check said no")
        return Finding("malformed", f"the check returned {type(value).__name__}, not a bool")

    async def _call(self, threads: Threads) -> Any:
        if inspect.iscoroutinefunction(self.function):
            return await self.function()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def ended(value: Any, error: BaseException | None) -> None:
            # The loop may have ended while the check hung.
            if not loop.is_closed():
                loop.call_soon_threadsafe(partial(_settle, future, value, error))

        threads.submit(self.function, ended)
        return await future


def _settle(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if isinstance(error, Exception):
        future.set_exception(error)
    elif error is not None:
        future.set_exception(RuntimeError(_say(error)))
    else:
        future.set_result(value)


def _say(error: BaseException) -> str:
    return named(error)[:_MAX_TEXT]


async def keep_looking(check: Check, threads: Threads, report: Callable[[Check, Finding], None]) -> None:
    """Make a check again and again, and report each finding. Ends by being cancelled."""
    while True:
        await asyncio.sleep(check.every)
        report(check, await check.look(threads))
