"""`strip-mlp-classify --ray`: decoding on the cores of a cluster, sessions as actors, rows to Parquet files.

Ray Data moves the pictures, keeps memory bounded and starts failed work anew; here is what it calls.
"""

import logging
from collections import Counter
from collections.abc import Sequence
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
from offline.errors import OfflineError
from offline.model import open_model
from offline.outputs import SCHEMA, Before, columns_of, row_of_columns
from offline.progress import console
from offline.rows import row_of
from offline.scoring import decoded, results_of
from offline.sources import BYTES, PATH, Read, from_row, is_parquet, opened, parquet_of, source_of
from service.artifact import Preprocessing
from service.body import MEBIBYTE
from service.settings import Settings

ROWS_A_BLOCK = 1000
"""So many pictures are begun anew if the job is ended while they are in work."""

BATCH = 32
"""Pictures that go through a step at once."""

HALF = 0.5
"""Of a core, as Ray counts them, for a decode and for a session on the CPU: each core has one of either, and how it is
divided is the operating system's business."""

PICTURE = "picture"
"""Column of what `decode` has made of the bytes."""

Batch = dict[str, Any]
"""Columns as NumPy arrays."""


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
        sources: as for `source_of`, seen by every node.
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
        before.require((model.name, model.version, min(job.top_k, len(model.artifact.labels))))
        if not ray.is_initialized():
            join(None)
        if not console.is_terminal:  # where bars would become lines
            logging.getLogger("ray.data").setLevel(logging.WARNING)
        _run(sources, output, job, before, model.artifact.preprocessing)
        store, folder = opened(output)
        codes = datasets.dataset(_files(store, folder), SCHEMA, filesystem=store).to_table(["error_code"])
    except (RayError, arrow.ArrowException, OSError, ValueError, KeyError) as error:
        raise OfflineError(f"the work on the cluster failed; --resume goes on: {error}") from error
    return Counter(code or "" for code in codes["error_code"].to_pylist())


def _run(sources: Sequence[str], output: str, job: Job, before: Before, preprocessing: Preprocessing) -> None:
    pictures, read = _pictures(sources, before, job.settings)
    store, folder = opened(output)
    resources: dict[str, float] = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    pictures.map_batches(
        partial(decode, read=read, preprocessing=preprocessing, settings=job.settings),
        batch_size=BATCH,
        num_cpus=HALF,
    ).map_batches(
        Sessions,
        fn_constructor_args=(job,),
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(size=gpus or int(resources["CPU"])),
        num_cpus=0 if gpus else HALF,
        num_gpus=1 if gpus else 0,
    ).write_parquet(folder, filesystem=store)


def _prepare(output: str, *, resume: bool, overwrite: bool) -> Before:
    """What the output holds that is kept. Files that were cut off are removed, as nobody can read them."""
    before = Before()
    store, folder = opened(output)
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
    if is_parquet(sources):
        found = parquet_of(sources[0])
        rows = ray.data.read_parquet(found.files, filesystem=found.filesystem, columns=[PATH, BYTES])
        if before.done:
            rows = rows.filter(expr=col(PATH).not_in(sorted(before.done)))
        return rows, partial(from_row, limit=limit)
    source = source_of(sources, limit)
    to_do = [{PATH: each.name, BYTES: each.where} for each in source.pictures if each.name not in before.done]
    return ray.data.from_items(to_do, override_num_blocks=1 + len(to_do) // ROWS_A_BLOCK), source.read


def decode(batch: Batch, *, read: Read, preprocessing: Preprocessing, settings: Settings) -> arrow.Table:
    """Pixels of each picture, or the error that befell it.

    Args:
        batch: `path`, and as `bytes` what `read` takes.
        read: see `Read`.
        preprocessing: the model's.
        settings: limits.
    """
    pictures = [decoded(read, where, preprocessing, settings) for where in batch[BYTES]]
    # Always as objects: Ray joins no batch that became a tensor with one that holds an error.
    return arrow.table({PATH: batch[PATH], PICTURE: ArrowPythonObjectArray.from_objects(pictures)})


class Sessions:
    """A model on one device, or one core.

    Args:
        job: which model.
    """

    def __init__(self, job: Job) -> None:
        self._model = open_model(job.model, job.settings.model_copy(update={"instances": 1}))
        self._top_k = job.top_k

    def __call__(self, batch: Batch) -> arrow.Table:
        """Rows of what `decode` has made."""
        results = results_of(self._model, batch[PICTURE])
        rows = [
            row_of(path, result, self._model, self._top_k)
            for path, result in zip(map(str, batch[PATH]), results, strict=True)
        ]
        return arrow.Table.from_pylist([columns_of(row) for row in rows], SCHEMA)


def _files(store: fs.FileSystem, folder: str) -> list[str]:
    """The Parquet files in a folder."""
    found = store.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    return [each.path for each in found if each.path.endswith(".parquet")]
