"""From a command's arguments to files."""

import os
import sys
from collections.abc import Iterator, Sequence
from glob import has_magic, iglob
from pathlib import Path

from PIL import Image

from offline.errors import OfflineError
from service.decoding import FORMATS

STANDARD_INPUT = "-"


def extensions() -> frozenset[str]:
    """Of files that are taken from folders; in small letters, with the dot."""
    return frozenset(extension for extension, name in Image.registered_extensions().items() if name in FORMATS)


def files_of(arguments: Sequence[str], *, null: bool = False) -> Iterator[Path]:
    """The files that arguments name, one after the other; one that is named twice comes twice.

    Args:
        arguments: files, which are taken whatever they are; folders, of which all pictures are taken by extension, in
            order of their names, without following links to folders; patterns such as `a/**/*.jpg`; `-` for paths on
            standard input, one a line.
        null: paths on standard input end with a null character instead.

    Raises:
        OfflineError: a pattern matches nothing.
    """
    for argument in arguments:
        path = Path(argument)
        if argument == STANDARD_INPUT:
            yield from _standard_input("\0" if null else "\n")
        elif path.is_dir():
            yield from pictures_below(path)
        elif has_magic(argument) and not path.exists():
            yield from _matching(argument)
        else:
            yield path


def pictures_below(folder: Path) -> Iterator[Path]:
    """Files in a folder and those in it that have a picture's extension, each folder's in order of their names."""
    known = extensions()
    for parent, folders, files in os.walk(folder):
        folders.sort()
        pictures = (Path(parent, file) for file in sorted(files))
        yield from (picture for picture in pictures if picture.suffix.lower() in known)


def _matching(pattern: str) -> Iterator[Path]:
    found = False
    for match in sorted(iglob(pattern, recursive=True)):  # noqa: PTH207 - Path.glob takes no absolute patterns
        path = Path(match)
        if not path.is_dir():
            found = True
            yield path
    if not found:
        raise OfflineError(f"no file matches '{pattern}'")


def _standard_input(end: str) -> Iterator[Path]:
    with open(sys.stdin.fileno(), "rb", closefd=False) as lines:
        rest = b""
        while chunk := lines.read1(1 << 16):
            *whole, rest = (rest + chunk).split(end.encode())
            yield from (Path(os.fsdecode(name)) for name in whole if name)
        if rest:
            yield Path(os.fsdecode(rest))
