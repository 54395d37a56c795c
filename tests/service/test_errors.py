"""The errors' place in the hierarchy, their HTTP statuses and codes, which clients rely on, and what counts as what."""

from typing import get_args

import pytest

from service import errors
from service.errors import BadPicture, Outcome, ServiceError, StartupError

CONTRACT: list[tuple[type[ServiceError], type[ServiceError], int, str, Outcome]] = [
    (errors.PictureTooLarge, BadPicture, 413, "picture_too_large", "invalid"),
    (errors.UnsupportedPicture, BadPicture, 415, "unsupported_picture", "invalid"),
    (errors.BrokenPicture, BadPicture, 422, "broken_picture", "invalid"),
    (errors.PictureTooSlow, BadPicture, 422, "picture_too_slow", "invalid"),
    (errors.BadRequest, ServiceError, 400, "bad_request", "invalid"),
    (errors.Unauthorized, ServiceError, 401, "unauthorized", "failed"),
    (errors.Forbidden, ServiceError, 403, "forbidden", "invalid"),
    (errors.HeadersTooSlow, ServiceError, 408, "headers_too_slow", "failed"),
    (errors.HeadersTooLarge, ServiceError, 431, "headers_too_large", "failed"),
    (errors.ModelNotFound, ServiceError, 404, "model_not_found", "failed"),
    (errors.BodyTooSlow, ServiceError, 408, "body_too_slow", "invalid"),
    (errors.RequestTooLarge, ServiceError, 413, "request_too_large", "invalid"),
    (errors.UnsupportedBody, ServiceError, 415, "unsupported_body", "invalid"),
    (errors.Overloaded, ServiceError, 429, "overloaded", "refused"),
    (errors.ClientGone, ServiceError, 499, "client_gone", "cancelled"),
    (errors.InferenceFailed, ServiceError, 500, "inference_failed", "failed"),
    (errors.NotReady, ServiceError, 503, "not_ready", "refused"),
    (errors.DeadlineExceeded, ServiceError, 504, "deadline_exceeded", "expired"),
    (errors.UnusableModel, StartupError, 500, "unusable_model", "failed"),
    (errors.DeviceUnavailable, StartupError, 500, "device_unavailable", "failed"),
]


@pytest.mark.parametrize(("error", "parent", "status", "code", "outcome"), CONTRACT)
def test_place_status_code_and_outcome(
    error: type[ServiceError], parent: type[ServiceError], status: int, code: str, outcome: Outcome
) -> None:
    assert error.__bases__ == (parent,)
    assert (error.status, error.code, error.outcome) == (status, code, outcome)


def test_no_error_is_outside_the_contract() -> None:
    groups = {ServiceError, BadPicture, StartupError}
    defined = {each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)}

    assert defined == groups | {error for error, *_ in CONTRACT}
    assert BadPicture.__bases__ == StartupError.__bases__ == (ServiceError,)


def test_codes_tell_errors_apart() -> None:
    codes = [code for *_, code, _ in CONTRACT] + [ServiceError.code]

    assert len(codes) == len(set(codes))


def test_every_error_counts_as_one_of_the_outcomes() -> None:
    outcomes = {error.outcome for error, *_ in CONTRACT} | {ServiceError.outcome}

    assert outcomes | {"ok"} == set(get_args(Outcome))


def test_an_overload_says_when_to_come_back() -> None:
    error = errors.Overloaded("full", 3)

    assert (str(error), error.retry_after) == ("full", 3)
