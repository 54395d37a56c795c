"""Pictures that are not read yet, wherever they are: files, folders of object stores, rows of Parquet files."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from stat import S_ISREG

import pyarrow.dataset as datasets
from pyarrow import ArrowException, fs, types

from offline.errors import OfflineError, UnreadableFile
from offline.listing import extensions, files_of
from offline.rows import shown
from service.errors import PictureTooLarge

PATH, BYTES = "path", "bytes"
"""Columns of a Parquet file of pictures."""

ROWS = 64
"""Of a Parquet file, read at a time."""

Read = Callable[[bytes], bytes]
"""Gives an encoded picture; may raise BadPicture."""


@dataclass(frozen=True)
class Picture:
    """A picture that is not read yet."""

    name: str
    """As rows have it."""
    where: bytes
    """What `Source.read` takes: a path, or the picture itself."""


@dataclass(frozen=True)
class Source:
    """Pictures of one kind of place."""

    pictures: Iterable[Picture]
    read: Read


def source_of(arguments: Sequence[str], limit: int, *, null: bool = False) -> Source:
    """The pictures that a command's arguments name.

    Args:
        arguments: as for `files_of`; or one URL of a folder in an object store, of which all pictures are taken by
            extension; or one Parquet file or folder, or its URL, as `is_parquet` knows it.
        limit: most bytes of a picture.
        null: as for `files_of`.

    Raises:
        OfflineError: the place cannot be opened, has no such columns, or is a URL beside others.
    """
    if is_parquet(arguments):
        return Source(_rows(arguments[0], parquet_of(arguments[0])), partial(from_row, limit=limit))
    if urls := [argument for argument in arguments if "://" in argument]:
        if len(arguments) > 1:
            raise OfflineError(f"{urls[0]} has to be the only argument; classify the others apart from it")
        return _objects(urls[0], limit)
    return of_files(files_of(arguments, null=null), limit)


def of_files(paths: Iterable[Path], limit: int) -> Source:
    """Files, of so many bytes at most, by absolute paths, as others may work in another folder."""
    pictures = (Picture(shown(path), os.fsencode(path.absolute())) for path in paths)
    return Source(pictures, partial(_from_file, limit=limit))


def is_parquet(arguments: Sequence[str]) -> bool:
    """Whether they name pictures in the column `bytes` of a Parquet file or folder, by its extension."""
    return len(arguments) == 1 and arguments[0].endswith(".parquet")


def parquet_of(source: str) -> datasets.Dataset:
    """Its rows, with columns `PATH` and `BYTES`. Raises OfflineError where it cannot be opened, or these are others."""
    store, folder = opened(source)
    try:
        found = datasets.dataset(folder, filesystem=store, format="parquet")
    except (OSError, ArrowException) as error:
        raise OfflineError(f"{source} cannot be read: {error}") from error
    if missing := {PATH, BYTES} - set(found.schema.names):
        raise OfflineError(f"{source} has no column {' and no '.join(sorted(missing))}")
    kind = found.schema.field(BYTES).type
    if not (types.is_binary(kind) or types.is_large_binary(kind)):
        raise OfflineError(f"{source} has {kind} in column {BYTES}, which has to be binary")
    return found


def opened(folder: str) -> tuple[fs.FileSystem, str]:
    """The file system of a folder or its URL, and the path there. Raises OfflineError where there is none such."""
    try:
        found: tuple[fs.FileSystem, str] = fs.FileSystem.from_uri(
            folder if "://" in folder else str(Path(folder).absolute())
        )
    except (OSError, ValueError) as error:
        raise OfflineError(f"{folder} cannot be opened: {error}") from error
    return found


def from_row(data: bytes | None, limit: int) -> bytes:
    """A picture in a row. Raises UnreadableFile if there is none, PictureTooLarge beyond `limit` bytes."""
    if not data:
        raise UnreadableFile("the row holds no picture")
    return _within(data, limit)


def read_file(path: Path, limit: int) -> bytes:
    """A file's content.

    Raises:
        UnreadableFile: it is missing, may not be read, or is no regular file, which could keep us waiting for ever.
        PictureTooLarge: it has more bytes than `limit`.
    """
    try:
        status = path.stat()
        if not S_ISREG(status.st_mode):
            raise UnreadableFile("not a regular file")
        if status.st_size > limit:
            raise PictureTooLarge(f"the picture has {status.st_size} bytes, {limit} are allowed")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # a name with a null character is the latter
        raise UnreadableFile(f"the file cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _rows(source: str, found: datasets.Dataset) -> Iterator[Picture]:
    try:
        for batch in found.to_batches([PATH, BYTES], batch_size=ROWS, batch_readahead=1, fragment_readahead=1):
            for row in batch.to_pylist():
                yield Picture(str(row[PATH]), row[BYTES] or b"")
    except (OSError, ArrowException) as error:
        raise OfflineError(f"{source} cannot be read on: {error}") from error


def _objects(url: str, limit: int) -> Source:
    store, folder = opened(url)
    try:
        found = store.get_file_info(fs.FileSelector(folder, recursive=True))
    except OSError as error:
        raise OfflineError(f"{url} cannot be read: {error}") from error
    paths = sorted(each.path for each in found if Path(each.path).suffix.lower() in extensions())
    scheme = url.partition("://")[0]
    return Source(
        [Picture(f"{scheme}://{path}", path.encode()) for path in paths],
        partial(_from_store, store=store, limit=limit),
    )


def _from_file(path: bytes, limit: int) -> bytes:
    return read_file(Path(os.fsdecode(path)), limit)


def _from_store(path: bytes, store: fs.FileSystem, limit: int) -> bytes:
    try:
        with store.open_input_file(path.decode()) as file:
            return _within(file.read(limit + 1), limit)
    except OSError as error:
        raise UnreadableFile(f"the file cannot be read: {error}") from error


def _within(data: bytes, limit: int) -> bytes:
    if len(data) > limit:
        raise PictureTooLarge(f"the picture has more bytes than the {limit} that are allowed")
    return data
