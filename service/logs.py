"""The log: JSON lines for machines, plain text on a terminal, both with the fields of a request."""

import logging
import sys

from pythonjsonlogger.core import RESERVED_ATTRS, merge_record_extra
from pythonjsonlogger.json import JsonFormatter

from service.settings import Settings

NOT_SHOWN = (*RESERVED_ATTRS, "color_message")
"""Attributes of a log record that are no fields; the last is uvicorn's, its message in colours."""


class TextFormatter(logging.Formatter):
    """One line for a person, the fields at its end."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = merge_record_extra(record, {}, NOT_SHOWN)
        return " ".join([super().formatMessage(record), *(f"{name}={value}" for name, value in fields.items())])


def start_logging(settings: Settings) -> None:
    """Log to standard error, as JSON lines unless that is a terminal or the settings say otherwise."""
    as_text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler()
    handler.setFormatter(TextFormatter() if as_text else json_formatter())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    logging.captureWarnings(capture=True)


def json_formatter() -> JsonFormatter:
    """Time (UTC, RFC 3339), level, logger and message, then the fields."""
    return JsonFormatter(
        ["timestamp", "levelname", "name", "message"],
        timestamp=True,
        rename_fields={"timestamp": "time", "levelname": "level", "name": "logger"},
        reserved_attrs=NOT_SHOWN,
        json_ensure_ascii=False,
    )
