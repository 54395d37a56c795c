"""Every error of the service, the HTTP status each one becomes, and what its pictures are counted as.

ServiceError
 ├─ BadPicture           a picture's own fault; it never touches the other pictures of its request
 │   ├─ PictureTooLarge       413
 │   ├─ UnsupportedPicture    415
 │   ├─ BrokenPicture         422
 │   └─ PictureTooSlow        422
 ├─ BadRequest                400
 ├─ Unauthorized              401
 ├─ Forbidden                 403
 ├─ ModelNotFound             404
 ├─ HeadersTooSlow            408
 ├─ BodyTooSlow               408
 ├─ RequestTooLarge           413
 ├─ UnsupportedBody           415
 ├─ Overloaded                429, with Retry-After
 ├─ HeadersTooLarge           431
 ├─ ClientGone                499, which nobody hears
 ├─ InferenceFailed           500
 ├─ NotReady                  503
 ├─ DeadlineExceeded          504
 └─ StartupError              a model, or the service, cannot start
     ├─ UnusableModel
     └─ DeviceUnavailable
"""

from http import HTTPStatus
from typing import ClassVar, Literal

Outcome = Literal["ok", "invalid", "refused", "expired", "cancelled", "failed"]
"""What may become of a picture."""


class ServiceError(Exception):
    """Base of the hierarchy. The message says what was wrong with what, and what to do."""

    status: ClassVar[int] = HTTPStatus.INTERNAL_SERVER_ERROR
    code: ClassVar[str] = "internal_error"
    outcome: ClassVar[Outcome] = "failed"
    body_unread = False
    """Whether the request's body was still arriving, too slowly to wait for its end."""


class BadPicture(ServiceError):
    """One picture cannot be classified."""

    outcome = "invalid"


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


class PictureTooSlow(BadPicture):
    """Decoding the picture took longer than the limit allows."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "picture_too_slow"


class BadRequest(ServiceError):
    """The request makes no sense as a whole."""

    status = HTTPStatus.BAD_REQUEST
    code = "bad_request"
    outcome = "invalid"


class Unauthorized(ServiceError):
    """The request has no key or token that is known."""

    status = HTTPStatus.UNAUTHORIZED
    code = "unauthorized"


class Forbidden(ServiceError):
    """Who asks is known, and may not do this."""

    status = HTTPStatus.FORBIDDEN
    code = "forbidden"
    outcome = "invalid"


class HeadersTooSlow(ServiceError):
    """The headers did not arrive in time."""

    status = HTTPStatus.REQUEST_TIMEOUT
    code = "headers_too_slow"


class HeadersTooLarge(ServiceError):
    """The headers have more bytes than allowed."""

    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    code = "headers_too_large"


class ModelNotFound(ServiceError):
    """No such model or version is served."""

    status = HTTPStatus.NOT_FOUND
    code = "model_not_found"


class BodyTooSlow(ServiceError):
    """The body did not arrive in time."""

    status = HTTPStatus.REQUEST_TIMEOUT
    code = "body_too_slow"
    body_unread = True
    outcome = "invalid"


class RequestTooLarge(ServiceError):
    """The body has more bytes, or the request more pictures, than the limits allow."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    code = "request_too_large"
    outcome = "invalid"


class UnsupportedBody(ServiceError):
    """The request's content type is none that `/classify` takes."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    code = "unsupported_body"
    outcome = "invalid"


class Overloaded(ServiceError):
    """There is no room, or not enough time, for the request.

    Attributes:
        retry_after: whole seconds after which there should be.
    """

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "overloaded"
    outcome = "refused"

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ClientGone(ServiceError):
    """The client closed the connection before its answer."""

    status = 499  # nginx's number; HTTP has none, as nobody is there to read it
    code = "client_gone"
    outcome = "cancelled"


class InferenceFailed(ServiceError):
    """The session raised on this very picture."""

    code = "inference_failed"


class NotReady(ServiceError):
    """Models are still loading or cannot run, or the service is shutting down."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "not_ready"
    outcome = "refused"


class DeadlineExceeded(ServiceError):
    """The request's time was over before its answer was ready."""

    status = HTTPStatus.GATEWAY_TIMEOUT
    code = "deadline_exceeded"
    outcome = "expired"


class StartupError(ServiceError):
    """A model cannot be served, or the service cannot start, as it was told to."""


class UnusableModel(StartupError):
    """A model file that must not be served."""

    code = "unusable_model"


class DeviceUnavailable(StartupError):
    """The execution provider that was asked for is not to be had."""

    code = "device_unavailable"
