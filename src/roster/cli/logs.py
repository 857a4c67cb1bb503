"""Shows the library's log on stderr: warnings always, more with `-v` or `ROSTER_LOG`, as text or as JSON."""

from __future__ import annotations

import logging

from roster import _logs
from roster._logs import Format, JsonFormatter, StderrHandler, TextFormatter

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)

_handler = StderrHandler()
_told: list[logging.Logger] = []


def wanted_format(asked: Format | None) -> Format:
    """Return what was asked for, else what `ROSTER_LOG_FORMAT` says, else text.

    Raises:
        ConfigError: the variable cannot be read.
    """
    return asked or _logs.wanted_format() or "text"


def show(verbose: int, form: Format) -> None:
    """Show warnings, with 1 what happens, with 2 everything; without `-v` it is what `ROSTER_LOG` says.

    Raises:
        ConfigError: the variable cannot be read.
    """
    asked = _logs.wanted_level()
    level = _LEVELS[min(verbose, 2)] if verbose or asked is None else asked
    tracebacks = level <= logging.DEBUG
    _handler.setFormatter(
        JsonFormatter() if form == "json" else TextFormatter(terse=True, tracebacks=tracebacks)
    )
    logger = logging.getLogger("roster")
    logger.setLevel(level)
    if _handler not in logger.handlers:
        logger.addHandler(_handler)
        logger.propagate = False


def tell(name: str, *, but: str) -> None:
    """Show what happens in one part of the library, but not in a part of that: for a command that stays.

    What `-v` and `ROSTER_LOG` say counts.
    """
    if _logs.wanted_level() is None and logging.getLogger("roster").level == logging.WARNING:
        for part, level in ((name, logging.INFO), (but, logging.WARNING)):
            _told.append(logging.getLogger(part))
            _told[-1].setLevel(level)


def errors_only() -> None:
    """Show no warnings: for a command whose result is what they would say."""
    logging.getLogger("roster").setLevel(logging.ERROR)


def quiet() -> None:
    """Leave the library's log as it was found."""
    logger = logging.getLogger("roster")
    logger.removeHandler(_handler)
    logger.propagate = True
    logger.setLevel(logging.NOTSET)
    while _told:
        _told.pop().setLevel(logging.NOTSET)
