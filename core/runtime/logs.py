"""Logs: a constant verb and fields for machines, a sentence for people. On stderr; never a payload or a secret."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TypedDict

from core.printable import escaped_json, printable

__all__ = ["LogSetup", "configure_logging", "log_as", "log_setup"]

#: The fields that every LogRecord has.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure_logging(level: str, format_name: str) -> None:
    """Sends everything to stderr: `console` for people, `json` as one object per line, `auto` depending on the
    terminal."""
    as_json = format_name == "json" or (format_name == "auto" and not sys.stderr.isatty())
    _log_to_stderr(level, as_json)
    for noisy in ("asyncio", "httpx", "langsmith"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class LogSetup(TypedDict):
    """How a process logs."""

    as_json: bool
    levels: dict[str, int]  #: by logger; "" is the root


def log_setup() -> LogSetup:
    """The configuration of this process, whoever has set it."""
    loggers = {
        name: logger for name, logger in logging.root.manager.loggerDict.items() if isinstance(logger, logging.Logger)
    }
    return {
        "as_json": any(isinstance(handler.formatter, JsonLines) for handler in logging.root.handlers),
        "levels": {"": logging.root.level, **{name: logger.level for name, logger in loggers.items() if logger.level}},
    }


def log_as(setup: LogSetup) -> None:
    """Makes this process log like another one, to its own stderr."""
    _log_to_stderr(setup["levels"][""], setup["as_json"])
    for name, level in setup["levels"].items():
        logging.getLogger(name).setLevel(level)


def _log_to_stderr(level: str | int, as_json: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else Console())
    logging.basicConfig(level=level, handlers=[handler], force=True)


class JsonLines(logging.Formatter):
    """One JSON object per record. No value can forge a line, whatever a reader considers a line end."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return escaped_json(json.dumps(line, default=str, ensure_ascii=False))


class Console(logging.Formatter):
    """A line for people: time, level, sentence and fields. The lines of a traceback are indented below it."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        fields = " ".join(f"{name}={value}" for name, value in _fields(record).items() if name != "action")
        text = f"{record.getMessage()}  {fields}".rstrip()
        lines = [f"{time} {record.levelname.lower():7} {printable(text)}"]
        if record.exc_info:
            lines += [f"    {printable(line)}" for line in self.formatException(record.exc_info).split("\n")]
        return "\n".join(lines)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}
