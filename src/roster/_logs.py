"""The library's log: quiet by default, one line a record, as text or as JSON, made safe whoever wrote what is in it."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from datetime import UTC, datetime
from typing import Any, Literal

from roster._text import safe, safe_encoded
from roster.errors import ConfigError

Format = Literal["text", "json"]

LEVEL_VARIABLE = "ROSTER_LOG"
FORMAT_VARIABLE = "ROSTER_LOG_FORMAT"
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "off": logging.CRITICAL + 1,
}
FORMATS: tuple[Format, ...] = ("text", "json")
# Whoever reads a log line by line has a limit; what stands behind so many characters tells nobody anything.
_MAX_TEXT = 8192
_USUAL = frozenset(
    {*vars(logging.LogRecord("", 0, "", 0, "", (), None)), "message", "asctime", "taskName", "color_message"}
)


def quiet_by_default() -> None:
    """Have the library's records go nowhere unless the application asks for them.

    Without this Python prints warnings of a logger that nobody has configured to stderr (`logging.lastResort`).
    """
    logger = logging.getLogger("roster")
    if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
        logger.addHandler(logging.NullHandler())


class TextFormatter(logging.Formatter):
    """One line a record: time, level, logger, message; a traceback follows in lines of its own.

    Args:
        terse: for a person at a terminal: level and message alone.
        tracebacks: whether exceptions are shown.
    """

    def __init__(self, *, terse: bool = False, tracebacks: bool = True) -> None:
        super().__init__()
        self._terse = terse
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        message = safe(record.getMessage()[:_MAX_TEXT])
        if self._terse:
            line = f"{level_name(record.levelno)}: {message}"
        else:
            line = f"{_time(record)} {level_name(record.levelno):<7} {safe(record.name)}: {message}"
        if self._tracebacks and record.exc_info and record.exc_info[0] is not None:
            trace = self.formatException(record.exc_info).split("\n")
            line = "\n".join([line, *(safe(part) for part in trace)])
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time` (RFC 3339 UTC), `level`, `logger`, `message`, and what the call gave as `extra`.

    Extras of ours are `node` (`namespace/name`), `uid`, `capability`, `state`, `store` and `key`. A record of an exception
    has `error` (its type) and `traceback`.
    """

    def format(self, record: logging.LogRecord) -> str:
        said = {name: _plain(value) for name, value in vars(record).items() if name not in _USUAL}
        if record.exc_info and record.exc_info[0] is not None:
            said["error"] = record.exc_info[0].__name__
            said["traceback"] = self.formatException(record.exc_info)[-_MAX_TEXT:]
        return _object(_time(record), level_name(record.levelno), record.name, record.getMessage(), said)


def json_line(level: str, logger: str, message: str) -> str:
    """Return a line as `JsonFormatter` writes it, for what is said beside the log."""
    return _object(_stamp(datetime.now(UTC)), level, logger, message, {})


def _object(time: str, level: str, logger: str, message: str, said: dict[str, Any]) -> str:
    line = {"time": time, "level": level, "logger": logger, "message": message[:_MAX_TEXT]}
    line.update((name, value) for name, value in said.items() if name not in line)
    return safe_encoded(json.dumps(line, ensure_ascii=False), json=True)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return str(value)[:_MAX_TEXT]


def level_name(level: int) -> str:
    """Return a level as the log spells it: `debug`, `info`, `warning`, `error`."""
    for name in ("error", "warning", "info"):
        if level >= LEVELS[name]:
            return name
    return "debug"


def _time(record: logging.LogRecord) -> str:
    return _stamp(datetime.fromtimestamp(record.created, UTC))


def _stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class StderrHandler(logging.Handler):
    """Writes to whatever stderr is at the moment, a record in one piece."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:  # noqa: BLE001 - as every handler does: what cannot be logged must not end the program
            self.handleError(record)


def wanted_level() -> int | None:
    """Return the level that `ROSTER_LOG` asks for, None if it is not set.

    Raises:
        ConfigError: it is no level.
    """
    text = os.environ.get(LEVEL_VARIABLE, "").strip().lower()
    if not text:
        return None
    if text not in LEVELS:
        raise ConfigError(f"{LEVEL_VARIABLE} is {', '.join(LEVELS)}; it is {text[:40]!r}")
    return LEVELS[text]


def wanted_format() -> Format | None:
    """Return the format that `ROSTER_LOG_FORMAT` asks for, None if it is not set.

    Raises:
        ConfigError: it is no format.
    """
    text = os.environ.get(FORMAT_VARIABLE, "").strip().lower()
    for known in FORMATS:
        if text == known:
            return known
    if text:
        raise ConfigError(f"{FORMAT_VARIABLE} is {' or '.join(FORMATS)}; it is {text[:40]!r}")
    return None


def log_as_the_environment_says() -> None:
    """Log to stderr if `ROSTER_LOG` or `ROSTER_LOG_FORMAT` is set and the application has not set up logging itself.

    It has if the root logger or the logger `roster` has a handler of its own. With the format alone the level is `info`.

    Raises:
        ConfigError: one of them cannot be read.
    """
    level, form = wanted_level(), wanted_format()
    if level is None and form is None:
        return
    logger = logging.getLogger("roster")
    own = [
        handler
        for handler in (*logging.getLogger().handlers, *logger.handlers)
        if not isinstance(handler, logging.NullHandler)
    ]
    if own:
        return
    handler = StderrHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if level is None else level)
