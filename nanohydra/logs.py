"""Structured logs: one JSON object a line, with what happened and never with what was said.

Exceptions are told by their kind and place alone, since their messages may quote a conversation.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import TextIO

_OURS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: time, level, event, and the record's `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        if record.name.startswith("nanohydra"):
            event = record.getMessage()
        else:  # of others only the first line, without what is filled in, which may be anything
            event = record.msg.partition("\n")[0] if isinstance(record.msg, str) else type(record.msg).__name__
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": event,
        }
        line |= {name: value for name, value in vars(record).items() if name not in _OURS}
        if record.exc_info and record.exc_info[1] is not None:
            line |= described(record.exc_info[1])
        return json.dumps(line, default=str, ensure_ascii=False)


def described(error: BaseException) -> dict[str, object]:
    """An exception without its message: its kind, and where it came from, innermost last."""
    frames = traceback.extract_tb(error.__traceback__)[-12:]
    return {"kind": type(error).__name__, "where": [f"{f.filename}:{f.lineno} {f.name}" for f in frames]}


def set_up(stream: TextIO | None = None) -> None:
    """Sends every log to `stream` (default: stderr)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.setLevel(logging.INFO)  # some libraries set their own loggers to DEBUG
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio", "nicegui"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("uvicorn.access").disabled = True  # our own lines tell more, and no query strings
    # Of these, news are no news, or told by our own lines.
    for name in ("uvicorn.error", "httpx", "alembic", "bm25s", "sentence_transformers"):
        logging.getLogger(name).setLevel(logging.WARNING)
