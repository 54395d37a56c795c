"""Errors of the offline commands."""

from service.errors import BadPicture


class OfflineError(Exception):
    """A command cannot go on. The message says why, and what to do."""


class UnreadableFile(BadPicture):
    """A file that cannot be read at all."""

    code = "unreadable_file"
