"""Shows the library's log on stderr, made safe: warnings always, more with `-v`."""

from __future__ import annotations

import logging
import sys

from roster.cli.text import safe

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)


class _Handler(logging.Handler):
    """Writes to whatever stderr is at the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level = "error" if record.levelno >= logging.ERROR else record.levelname.lower()
            sys.stderr.write(f"{level}: {safe(record.getMessage())}\n")
            if record.exc_info is not None and logging.getLogger("roster").level <= logging.DEBUG:
                sys.stderr.write(
                    "\n".join(map(safe, logging.Formatter().formatException(record.exc_info).split("\n")))
                    + "\n"
                )
        except Exception:  # noqa: BLE001 - as every handler does: what cannot be logged must not end the program
            self.handleError(record)


_handler = _Handler()


def set_verbosity(verbose: int) -> None:
    """Show warnings; with 1 what happens, with 2 everything."""
    logger = logging.getLogger("roster")
    logger.setLevel(_LEVELS[min(verbose, 2)])
    if _handler not in logger.handlers:
        logger.addHandler(_handler)
        logger.propagate = False


def quiet() -> None:
    """Leave the library's log as it was found."""
    logger = logging.getLogger("roster")
    logger.removeHandler(_handler)
    logger.propagate = True
    logger.setLevel(logging.NOTSET)
