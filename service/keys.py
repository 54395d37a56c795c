"""API keys: who may ask for which models, from a TOML file of hashes that can change while the service runs.

A key is a long random text, so one round of SHA-256 keeps it as safe as a slow hash would (NIST SP 800-63B, section
5.1.2); what is compared takes the same time whichever key is sent.
"""

import hashlib
import logging
import tomllib
from collections.abc import Mapping, Sequence
from hmac import compare_digest
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from service.errors import Forbidden, StartupError
from service.metrics import Metrics
from service.repository import Stamp

logger = logging.getLogger(__name__)

KEY_HEADER = b"x-api-key"

AUTHORIZATION, BEARER = b"authorization", b"Bearer "
"""RFC 6750, section 2.1."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    models: tuple[str, ...] | None = None


_FILE = TypeAdapter(dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")], _Entry])


class Key(BaseModel):
    """A client's key."""

    model_config = ConfigDict(frozen=True)

    name: str
    sha256: bytes
    models: tuple[str, ...] | None
    """What it may ask for; None: all."""

    def require(self, model: str) -> None:
        """Raise Forbidden unless it may ask for this model."""
        if self.models is not None and model not in self.models:
            raise Forbidden(f"key '{self.name}' may not ask for model '{model}', only for {', '.join(self.models)}")


class Keys:
    """Those of the file, as it was when it was last looked at and made sense.

    Args:
        path: the file.
        metrics: told whether it makes sense.

    Raises:
        StartupError: it cannot be read, or is no file of keys.
    """

    def __init__(self, path: Path, metrics: Metrics) -> None:
        self._path = path
        self._metrics = metrics
        self._stamp: Stamp | None = None
        self._keys: Sequence[Key] = ()
        self.refresh()
        if not self._keys:
            raise StartupError(f"--api-keys-file {path} cannot be used; the message above says why")

    def refresh(self) -> None:
        """Read the file if it has changed. One that makes no sense changes nothing."""
        try:
            stamp = Stamp.of(self._path)
            if stamp == self._stamp:
                return
            self._stamp = stamp  # a file that makes no sense is read again once it changes
            self._keys = _read(self._path)
        except (OSError, ValueError) as error:
            logger.error("the API keys stay as they are: %s: %s", self._path, _told(error))
            self._metrics.api_keys_error.set(1)
        else:
            logger.info("%d API keys", len(self._keys))
            self._metrics.api_keys_error.set(0)

    def find(self, headers: Mapping[bytes, bytes]) -> Key | None:
        """The key that a request sends, by the names of its headers in small letters; None: none that is known."""
        sent = sent_secret(headers)
        if sent is None:
            return None
        digest = hashlib.sha256(sent).digest()
        found = None
        for key in self._keys:  # all of them, so that the time says nothing
            if compare_digest(key.sha256, digest):
                found = key
        return found


def sent_secret(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The key or token in a request's `X-API-Key`, or as `Bearer` in its `Authorization`."""
    authorization = headers.get(AUTHORIZATION, b"")
    if authorization[: len(BEARER)].lower() == BEARER.lower():
        return authorization[len(BEARER) :]
    return headers.get(KEY_HEADER)


def _read(path: Path) -> list[Key]:
    entries = _FILE.validate_python(tomllib.loads(path.read_text()))
    if not entries:
        raise ValueError("it has no key; remove --api-keys-file if nobody needs one")
    hashes = [entry.sha256 for entry in entries.values()]
    if len(set(hashes)) < len(hashes):
        raise ValueError("two keys have the same sha256")
    return [Key(name=name, sha256=bytes.fromhex(entry.sha256), models=entry.models) for name, entry in entries.items()]


def _told(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
