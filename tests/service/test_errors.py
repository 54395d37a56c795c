"""The errors' place in the hierarchy and their HTTP statuses and codes, which clients rely on."""

import pytest

from service import errors
from service.errors import BadPicture, ServiceError, StartupError

CONTRACT: list[tuple[type[ServiceError], type[ServiceError], int, str]] = [
    (errors.PictureTooLarge, BadPicture, 413, "picture_too_large"),
    (errors.UnsupportedPicture, BadPicture, 415, "unsupported_picture"),
    (errors.BrokenPicture, BadPicture, 422, "broken_picture"),
    (errors.BadRequest, ServiceError, 400, "bad_request"),
    (errors.ModelNotFound, ServiceError, 404, "model_not_found"),
    (errors.BodyTooSlow, ServiceError, 408, "body_too_slow"),
    (errors.RequestTooLarge, ServiceError, 413, "request_too_large"),
    (errors.UnsupportedBody, ServiceError, 415, "unsupported_body"),
    (errors.Overloaded, ServiceError, 429, "overloaded"),
    (errors.InferenceFailed, ServiceError, 500, "inference_failed"),
    (errors.NotReady, ServiceError, 503, "not_ready"),
    (errors.UnusableModel, StartupError, 500, "unusable_model"),
    (errors.DeviceUnavailable, StartupError, 500, "device_unavailable"),
]


@pytest.mark.parametrize(("error", "parent", "status", "code"), CONTRACT)
def test_place_status_and_code(error: type[ServiceError], parent: type[ServiceError], status: int, code: str) -> None:
    assert error.__bases__ == (parent,)
    assert (error.status, error.code) == (status, code)


def test_no_error_is_outside_the_contract() -> None:
    groups = {ServiceError, BadPicture, StartupError}
    defined = {each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)}

    assert defined == groups | {error for error, *_ in CONTRACT}
    assert BadPicture.__bases__ == StartupError.__bases__ == (ServiceError,)


def test_codes_tell_errors_apart() -> None:
    codes = [code for *_, code in CONTRACT] + [ServiceError.code]

    assert len(codes) == len(set(codes))
