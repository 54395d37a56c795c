"""What a request's record holds, and says of it."""

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, SpanContext

from service.errors import BadRequest, DeadlineExceeded, Overloaded
from service.record import RequestRecord
from tests.service.stand_ins import record

MILLISECONDS = st.integers(0, 10_000)


@given(st.lists(st.tuples(MILLISECONDS, MILLISECONDS).map(sorted), min_size=1, max_size=5))
def test_a_stage_goes_from_the_first_pictures_start_to_the_last_ones_end(times: list[list[int]]) -> None:
    request = record()

    for start, end in times:
        request.reached("decode", start, end)

    assert request.stages == {"decode": (min(start for start, _ in times), max(end for _, end in times))}


def test_server_timing_has_the_stages_in_milliseconds_and_the_whole() -> None:
    request = record()
    request.reached("read", 1, 1.0025)
    request.reached("infer", 3, 4)

    assert re.fullmatch(r"read;dur=2\.50, infer;dur=1000\.00, total;dur=\d+\.\d\d", request.server_timing)


@pytest.mark.parametrize("sent", ["a", "req-1_2.3~4:5/6+7=8", "x" * 128])
def test_a_clients_request_id_is_kept(sent: str) -> None:
    assert RequestRecord(sent, INVALID_SPAN).request_id == sent


@pytest.mark.parametrize("sent", ["", "x" * 129, "two words", "line\nbreak", 'quo"te', "grün", "a;b"])
def test_what_is_no_request_id_is_replaced(sent: str) -> None:
    first, second = (RequestRecord(sent, INVALID_SPAN).request_id for _ in range(2))

    assert re.fullmatch("[0-9a-f]{32}", first)
    assert first != second


def test_the_trace_is_that_of_the_span() -> None:
    assert record().trace_id is None

    span = NonRecordingSpan(SpanContext(trace_id=0xABC, span_id=1, is_remote=True))
    assert RequestRecord("", span).trace_id == "00000000000000000000000000000abc"


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Overloaded("full", 1), "refused"),
        (DeadlineExceeded("late"), "expired"),
        (BadRequest("odd"), "invalid"),
        (asyncio.CancelledError(), "cancelled"),
        (ValueError("unforeseen"), "failed"),
    ],
)
def test_pictures_are_counted_by_the_error_that_ends_them(error: BaseException, outcome: str) -> None:
    request = record()

    with pytest.raises(type(error)), request.failures_counted(3):
        raise error
    with request.failures_counted(5):
        pass

    assert request.outcomes == {outcome: 3}


def test_a_stage_that_fails_has_no_time() -> None:
    request = record()

    with pytest.raises(ValueError, match="odd"), request.timed("read"):
        raise ValueError("odd")
    assert not request.stages
    with request.timed("read"):
        pass
    assert list(request.stages) == ["read"]
