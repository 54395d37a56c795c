"""How long a request may take."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from starlette.datastructures import Headers

from service.deadline import Deadline
from service.errors import BadRequest, DeadlineExceeded
from service.settings import Settings

CAP = 5000


def asked(header: str | None) -> tuple[Deadline, float]:
    """The deadline of a request with this header, and the seconds that it had left at first."""
    headers = Headers({} if header is None else {"x-request-timeout-ms": header})

    async def scenario() -> tuple[Deadline, float]:
        before = asyncio.get_running_loop().time()
        deadline = Deadline.of(headers, Settings(timeout_ms=2000, max_timeout_ms=CAP))
        left = deadline.seconds_left
        after = asyncio.get_running_loop().time()
        assert deadline.at - after <= left <= deadline.at - before
        assert before + deadline.milliseconds / 1000 <= deadline.at <= after + deadline.milliseconds / 1000
        return deadline, left

    return asyncio.run(scenario())


def test_without_the_header_it_is_the_default() -> None:
    deadline, left = asked(None)

    assert deadline.milliseconds == 2000
    assert left == pytest.approx(2, abs=0.5)


@given(st.integers(1, 10**12))
@hypothesis_settings(max_examples=50)
def test_it_is_what_was_asked_for_up_to_the_cap(milliseconds: int) -> None:
    deadline, _ = asked(str(milliseconds))

    assert deadline.milliseconds == min(milliseconds, CAP)


@pytest.mark.parametrize("digits", [20, 5000])
def test_a_number_of_any_length_is_capped(digits: int) -> None:
    """From 4,300 digits on Python refuses to read a number."""
    assert asked("9" * digits)[0].milliseconds == CAP


@pytest.mark.parametrize(
    "header", ["", "0", "000", "-1", "+1", "1.5", "1e3", " ", "1 000", "1_000", "0x10", "many", "inf", "²", "½"]
)
def test_whatever_is_no_whole_number_from_one_is_refused(header: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        asked(header)
    assert str(refusal.value) == (
        f"X-Request-Timeout-Ms is '{header}', but has to be a whole number of milliseconds, from 1"
    )


@pytest.mark.parametrize("ahead", [1.5, -1.5])
def test_seconds_left_are_negative_once_it_has_passed(ahead: float) -> None:
    async def scenario() -> float:
        return Deadline(asyncio.get_running_loop().time() + ahead, 1).seconds_left

    assert asyncio.run(scenario()) == pytest.approx(ahead, abs=0.5)


def test_the_error_says_what_was_asked_for() -> None:
    error: Any = Deadline(0, 250).exceeded()

    assert type(error) is DeadlineExceeded
    assert str(error) == "the answer was not ready within 250 ms"
