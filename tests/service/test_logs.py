"""What the log looks like, be it of a request or of anything else."""

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog

from service.logs import request_logger, start_logging
from service.settings import LogFormat, Settings


class Terminal(io.StringIO):
    """Claims to be one."""

    def isatty(self) -> bool:
        return True


Started = Callable[..., io.StringIO]
"""Starts logging with these settings; what then is written goes here."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Started]:
    """Logging is as before once the test is over."""
    root, configured = logging.getLogger(), structlog.get_config()
    level = root.level

    def start(stream: type[io.StringIO] = io.StringIO, **settings: Any) -> io.StringIO:
        written = stream()
        monkeypatch.setattr(sys, "stderr", written)
        monkeypatch.setattr(root, "handlers", [])  # not before, as pytest adds its own when the test begins
        start_logging(Settings(**settings))
        return written

    yield start
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.configure(**configured)


def test_a_line_has_time_level_logger_message_and_fields(started: Started) -> None:
    written = started()

    request_logger().info("request", model="größe", pictures={"ok": 1}, stages_ms={"read": 0.5})
    logging.getLogger("service.x").warning("took %d ms", 3, extra={"color_message": "in colours"})

    first, second = (json.loads(line) for line in written.getvalue().splitlines())
    for line in first, second:
        time = datetime.fromisoformat(line.pop("time"))
        assert time.tzinfo == UTC
        assert abs(datetime.now(UTC) - time) < timedelta(minutes=1)
    assert first == {
        "level": "info",
        "logger": "service.requests",
        "message": "request",
        "model": "größe",
        "pictures": {"ok": 1},
        "stages_ms": {"read": 0.5},
    }
    assert second == {"level": "warning", "logger": "service.x", "message": "took 3 ms"}
    assert "größe" in written.getvalue()


def test_a_traceback_stays_in_the_line_of_its_message(started: Started) -> None:
    written = started()

    try:
        json.loads("no JSON")
    except ValueError:
        logging.getLogger("any").exception("failed")

    (line,) = written.getvalue().splitlines()
    assert "Traceback" in json.loads(line)["exception"]
    assert "JSONDecodeError" in json.loads(line)["exception"]


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
    started: Started, stream: type[io.StringIO], asked: LogFormat, is_json: bool
) -> None:
    written = started(stream, log_format=asked)

    request_logger().info("request", status=200)
    logging.getLogger("any").info("shown")

    first, second = written.getvalue().splitlines()
    for line, message in (first, "request"), (second, "shown"):
        assert message in line
        assert line.startswith("{") == is_json
        assert ("\x1b[" in line) == (not is_json and stream is Terminal)
    assert "200" in first


def test_less_severe_lines_are_left_out(started: Started) -> None:
    written = started(log_level="warning")

    for logger in request_logger(), logging.getLogger("any"):
        logger.info("not shown")
        logger.warning("shown")

    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [(line["message"], line["level"]) for line in lines] == 2 * [("shown", "warning")]
