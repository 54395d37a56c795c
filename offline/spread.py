"""`strip-mlp-classify --ray`: decoding on the cores of a cluster, sessions as actors, rows to Parquet files.

Ray Data moves the pictures, keeps memory bounded and starts failed work anew; here is what it calls.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pyarrow.dataset as datasets
import pyarrow.parquet as parquet
import ray
from pyarrow import fs
from ray.data.expressions import col
from ray.data.extensions import ArrowPythonObjectArray
from ray.exceptions import RayError

from cluster.joining import join
from cluster.settings import absolute
from offline.errors import OfflineError, UnreadableFile
from offline.listing import extensions, files_of
from offline.model import open_model
from offline.outputs import SCHEMA, Before, columns_of, row_of_columns
from offline.progress import console
from offline.rows import row_of, shown
from offline.scoring import decoded, read_file, results_of
from service.artifact import Preprocessing
from service.body import MEBIBYTE
from service.errors import PictureTooLarge
from service.settings import Settings

ROWS_A_BLOCK = 1000
"""So many pictures are begun anew if the job is ended while they are in work."""

BATCH = 32
"""Pictures that go through a step at once."""

HALF = 0.5
"""Of a core, as Ray counts them, for a decode and for a session on the CPU: each core has one of either, and how it is
divided is the operating system's business."""

PATH, BYTES = "path", "bytes"
"""Columns of a Parquet file of pictures."""

PICTURE = "picture"
"""Column of what `decode` has made of the bytes."""

Batch = dict[str, Any]
"""Columns as NumPy arrays."""

Read = Callable[[bytes], bytes]
"""Gives an encoded picture; may raise BadPicture."""


@dataclass(frozen=True)
class Job:
    """What every node has to know."""

    model: str | None
    """As for `open_model`."""
    settings: Settings
    top_k: int


def classify_on_ray(sources: Sequence[str], output: str, job: Job, *, resume: bool, overwrite: bool) -> Counter[str]:
    """Classify on the cluster that RAY_ADDRESS names, else on one that is started on this machine.

    Args:
        sources: as for `files_of`, seen by every node; or one folder in an object store, by its URL; or one `.parquet`
            file or folder, or its URL, with columns `path` and `bytes`.
        output: a folder or its URL, for Parquet files with columns as `outputs.SCHEMA` has them.
        job: the model, and how many classes.
        resume: leave out what the output holds.
        overwrite: remove what the output holds.

    Returns:
        The output's pictures by error code, '' being none.

    Raises:
        OfflineError: no such model, source or output, or the output is of another model, or neither to be resumed nor
            overwritten.
    """
    path = str(Path(job.model).absolute()) if job.model is not None and job.model.endswith(".onnx") else job.model
    job = Job(path, absolute(job.settings), job.top_k)
    model = open_model(job.model, job.settings.model_copy(update={"max_batch": 1}))
    try:
        before = _prepare(output, resume=resume, overwrite=overwrite)
        if not ray.is_initialized():
            join(None)
        if not console.is_terminal:  # where bars would become lines
            logging.getLogger("ray.data").setLevel(logging.WARNING)
        _run(sources, output, job, before, model.artifact.preprocessing)
        store, folder = _opened(output)
        codes = datasets.dataset(_files(store, folder), SCHEMA, filesystem=store).to_table(["error_code"])
    except (RayError, arrow.ArrowException, OSError, ValueError, KeyError) as error:
        raise OfflineError(f"the work on the cluster failed; --resume goes on: {error}") from error
    return Counter(code or "" for code in codes["error_code"].to_pylist())


def _run(sources: Sequence[str], output: str, job: Job, before: Before, preprocessing: Preprocessing) -> None:
    pictures, read = _pictures(sources, before, job.settings)
    store, folder = _opened(output)
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call] # Ray's has no types
    gpus = int(resources.get("GPU", 0))
    pictures.map_batches(
        partial(decode, read=read, preprocessing=preprocessing, settings=job.settings),
        batch_size=BATCH,
        num_cpus=HALF,
    ).map_batches(
        Sessions,
        fn_constructor_args=(job, Before(kind=before.kind)),
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(size=gpus or int(resources["CPU"])),
        num_cpus=0 if gpus else HALF,
        num_gpus=1 if gpus else 0,
    ).write_parquet(folder, filesystem=store)


def _prepare(output: str, *, resume: bool, overwrite: bool) -> Before:
    """What the output holds that is kept. Files that were cut off are removed, as nobody can read them."""
    before = Before()
    store, folder = _opened(output)
    store.create_dir(folder)
    for name in _files(store, folder):
        if not (resume or overwrite):
            raise OfflineError(f"{output} holds files already; give --resume to add to them or --overwrite")
        try:
            with store.open_input_file(name) as file:
                records = [] if overwrite else parquet.ParquetFile(file).read().to_pylist()
        except arrow.ArrowInvalid:
            console.print(f"{name} was cut off; its pictures are classified again", highlight=False, soft_wrap=True)
            records = []
        if not records:
            store.delete_file(name)
        for record in records:
            before.add(row_of_columns(record))
    return before


def _pictures(sources: Sequence[str], before: Before, settings: Settings) -> tuple[ray.data.Dataset, Read]:
    """Rows of a picture's path and of what tells where its bytes are, and how to read those."""
    limit = settings.max_image_mb * MEBIBYTE
    source = sources[0]
    if len(sources) == 1 and source.endswith(".parquet"):
        store, folder = _opened(source)
        if missing := {PATH, BYTES} - set(datasets.dataset(folder, filesystem=store, format="parquet").schema.names):
            raise OfflineError(f"{source} has no column {' and no '.join(sorted(missing))}")
        pictures = ray.data.read_parquet(folder, filesystem=store, columns=[PATH, BYTES])
        if before.done:
            pictures = pictures.filter(expr=col(PATH).not_in(sorted(before.done)))
        return pictures, partial(_within, limit=limit)
    if len(sources) == 1 and "://" in source:
        store, folder = _opened(source)
        found = store.get_file_info(fs.FileSelector(folder, recursive=True))
        paths = [each.path for each in found if Path(each.path).suffix.lower() in extensions()]
        names = [f"{source.partition('://')[0]}://{path}" for path in paths]
        where = [path.encode() for path in paths]
        read = partial(_from_store, store=store, limit=limit)
    else:
        files = list(files_of(sources))
        names, where = [shown(path) for path in files], [os.fsencode(path.absolute()) for path in files]
        read = partial(_from_file, limit=limit)
    rows = [{PATH: name, BYTES: place} for name, place in zip(names, where, strict=True) if name not in before.done]
    return ray.data.from_items(rows, override_num_blocks=1 + len(rows) // ROWS_A_BLOCK), read


def decode(batch: Batch, *, read: Read, preprocessing: Preprocessing, settings: Settings) -> arrow.Table:
    """Pixels of each picture, or the error that befell it.

    Args:
        batch: `path`, and as `bytes` what `read` takes.
        read: see `Read`.
        preprocessing: the model's.
        settings: limits.
    """
    pictures = [decoded(partial(read, where), preprocessing, settings) for where in batch[BYTES]]
    # Always as objects: Ray joins no batch that became a tensor with one that holds an error.
    return arrow.table({PATH: batch[PATH], PICTURE: ArrowPythonObjectArray.from_objects(pictures)})


class Sessions:
    """A model on one device, or one core.

    Args:
        job: which model.
        before: whose rows the output holds.
    """

    def __init__(self, job: Job, before: Before) -> None:
        self._model = open_model(job.model, job.settings.model_copy(update={"instances": 1}))
        self._top_k = job.top_k
        self._before = before

    def __call__(self, batch: Batch) -> arrow.Table:
        """Rows of what `decode` has made."""
        results = results_of(self._model, batch[PICTURE])
        rows = [
            row_of(path, result, self._model, self._top_k)
            for path, result in zip(map(str, batch[PATH]), results, strict=True)
        ]
        for row in rows:
            self._before.require_same(row)
        return arrow.Table.from_pylist([columns_of(row) for row in rows], SCHEMA)


def _within(data: bytes | None, limit: int) -> bytes:
    if data is None:  # an empty cell
        raise UnreadableFile("the row holds no picture")
    if len(data) > limit:
        raise PictureTooLarge(f"the picture has {len(data)} bytes, {limit} are allowed")
    return data


def _from_file(path: bytes, limit: int) -> bytes:
    return read_file(Path(os.fsdecode(path)), limit)


def _from_store(path: bytes, store: fs.FileSystem, limit: int) -> bytes:
    try:
        with store.open_input_file(path.decode()) as file:
            return _within(file.read(limit + 1), limit)
    except OSError as error:
        raise UnreadableFile(f"the file cannot be read: {error}") from error


def _opened(folder: str) -> tuple[fs.FileSystem, str]:
    """A folder's file system and its path there."""
    try:
        opened: tuple[fs.FileSystem, str] = fs.FileSystem.from_uri(
            folder if "://" in folder else str(Path(folder).absolute())
        )
    except (OSError, ValueError) as error:
        raise OfflineError(f"{folder} cannot be opened: {error}") from error
    return opened


def _files(store: fs.FileSystem, folder: str) -> list[str]:
    """The Parquet files in a folder."""
    found = store.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    return [each.path for each in found if each.path.endswith(".parquet")]
