"""What the log looks like."""

import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from service.logs import TextFormatter, json_formatter, start_logging
from service.settings import LogFormat, Settings


def line_of(formatter: logging.Formatter, *, failing: bool = False) -> str:
    exc_info = (ValueError, ValueError("odd\nindeed"), None) if failing else None
    record = logging.getLogger("service.x").makeRecord(
        "service.x", logging.WARNING, "f", 1, "took %d ms", (3,), exc_info,
        extra={"model": "größe", "stages_ms": {"read": 0.5}, "color_message": "in colours"},
    )  # fmt: skip
    return formatter.format(record)


def test_json_is_a_line_with_time_level_logger_message_and_fields() -> None:
    line = line_of(json_formatter())

    fields = json.loads(line)
    assert list(fields) == ["time", "level", "logger", "message", "model", "stages_ms"]
    time = datetime.fromisoformat(fields.pop("time"))
    assert time.tzinfo == UTC
    assert abs(datetime.now(UTC) - time) < timedelta(minutes=1)
    assert fields == {
        "level": "WARNING",
        "logger": "service.x",
        "message": "took 3 ms",
        "model": "größe",
        "stages_ms": {"read": 0.5},
    }
    assert "\n" not in line


def test_a_traceback_stays_in_the_line_of_its_message() -> None:
    line = line_of(json_formatter(), failing=True)

    assert "\n" not in line
    assert "ValueError: odd\nindeed" in json.loads(line)["exc_info"]


def test_text_has_the_fields_at_the_end() -> None:
    assert re.fullmatch(
        r"\d{4}-.{18} WARNING service\.x: took 3 ms model=größe stages_ms=\{'read': 0\.5\}", line_of(TextFormatter())
    )


class Terminal(io.StringIO):
    """Claims to be one."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, its level as before once the test is over."""
    root = logging.getLogger()
    level = root.level
    yield root
    root.setLevel(level)
    logging.captureWarnings(capture=False)


@pytest.mark.parametrize(
    ("stream", "asked", "is_json"),
    [
        (io.StringIO, "auto", True),
        (Terminal, "auto", False),
        (io.StringIO, "text", False),
        (Terminal, "json", True),
    ],
)
def test_terminals_get_text_and_others_json_unless_asked_otherwise(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO], asked: LogFormat, is_json: bool
) -> None:
    written = stream()
    monkeypatch.setattr(sys, "stderr", written)
    monkeypatch.setattr(root, "handlers", [])  # not before, as pytest adds its own when the test begins

    start_logging(Settings(log_format=asked, log_level="warning"))
    logging.getLogger("any").info("not shown")
    logging.getLogger("any").warning("shown")

    (line,) = written.getvalue().splitlines()
    assert "shown" in line
    assert line.startswith("{") == is_json
