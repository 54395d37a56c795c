"""Every error of the service, and the HTTP status each one becomes.

ServiceError
 ├─ BadPicture           a picture's own fault; it never touches the other pictures of its request
 │   ├─ PictureTooLarge       413
 │   ├─ UnsupportedPicture    415
 │   └─ BrokenPicture         422
 ├─ BadRequest                400
 ├─ ModelNotFound             404
 ├─ BodyTooSlow               408
 ├─ RequestTooLarge           413
 ├─ UnsupportedBody           415
 ├─ Overloaded                429
 ├─ InferenceFailed           500
 ├─ NotReady                  503
 └─ StartupError              the service does not start
     ├─ UnusableModel
     └─ DeviceUnavailable
"""

from http import HTTPStatus
from typing import ClassVar


class ServiceError(Exception):
    """Base of the hierarchy. The message says what was wrong with what, and what to do."""

    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR
    code: ClassVar[str] = "internal_error"


class BadPicture(ServiceError):
    """One picture cannot be classified."""


class PictureTooLarge(BadPicture):
    """The picture has more bytes or pixels than the limits allow."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    code = "picture_too_large"


class UnsupportedPicture(BadPicture):
    """The bytes are not a picture of an accepted format."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    code = "unsupported_picture"


class BrokenPicture(BadPicture):
    """The format is known, the content cannot be decoded."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "broken_picture"


class BadRequest(ServiceError):
    """The request makes no sense as a whole."""

    status = HTTPStatus.BAD_REQUEST
    code = "bad_request"


class ModelNotFound(ServiceError):
    """No such model or version is served."""

    status = HTTPStatus.NOT_FOUND
    code = "model_not_found"


class BodyTooSlow(ServiceError):
    """The body did not arrive in time."""

    status = HTTPStatus.REQUEST_TIMEOUT
    code = "body_too_slow"


class RequestTooLarge(ServiceError):
    """The body has more bytes, or the request more pictures, than the limits allow."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    code = "request_too_large"


class UnsupportedBody(ServiceError):
    """The request's content type is none that `/classify` takes."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    code = "unsupported_body"


class Overloaded(ServiceError):
    """The queue is full. Answered with `Retry-After`."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "overloaded"


class InferenceFailed(ServiceError):
    """The session raised on this very picture."""

    code = "inference_failed"


class NotReady(ServiceError):
    """Models are still loading, or the service is shutting down."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "not_ready"


class StartupError(ServiceError):
    """The service cannot start as it was told to."""


class UnusableModel(StartupError):
    """A model file that must not be served."""

    code = "unusable_model"


class DeviceUnavailable(StartupError):
    """The execution provider that was asked for is not to be had."""

    code = "device_unavailable"
