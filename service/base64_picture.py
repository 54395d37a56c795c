"""Encoded pictures as text, for protocols that have no bytes."""

import base64
from dataclasses import dataclass

from service.errors import BrokenPicture, PictureTooLarge, UnsupportedPicture

DATA_URL = "data:"


@dataclass(frozen=True)
class Base64Picture:
    """A picture's file in base64 (RFC 4648, section 4), alone or as a `data:` URL (RFC 2397)."""

    text: str

    def decode(self, limit: int) -> bytes:
        """The file's content.

        Args:
            limit: most bytes that it may have.

        Raises:
            UnsupportedPicture: it is a URL, but no data: in base64. The service fetches nothing: whoever may ask it
                could make it ask servers that only it can reach.
            PictureTooLarge: it has more bytes than allowed; nothing is decoded then.
            BrokenPicture: it is not base64.
        """
        text = self.text
        if text[: len(DATA_URL)].lower() == DATA_URL:
            kind, comma, text = text.partition(",")
            if not comma or not kind.lower().endswith(";base64"):
                raise UnsupportedPicture("a data: URL has to have its picture in base64: data:image/jpeg;base64,…")
        elif "://" in text[:16]:
            raise UnsupportedPicture("the service fetches no URLs; send the picture itself, in base64")
        size = len(text) // 4 * 3 - text.count("=", -2)
        if size > limit:
            raise PictureTooLarge(f"the picture has {size} bytes, {limit} are allowed")
        try:
            return base64.b64decode(text, validate=True)
        except ValueError as error:
            raise BrokenPicture(f"the picture is not base64: {error}") from error
