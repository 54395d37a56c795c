"""Where rows go: CSV, JSON lines or Parquet, each of which can be resumed.

A row has the picture's path, the model's name and version, and its best classes with their numbers and probabilities or
an error's code and message. CSV has columns label_1, class_id_1, probability_1, label_2 and so on; Parquet has lists.
"""

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import orjson
import pyarrow as arrow
import pyarrow.parquet as parquet

from offline.errors import OfflineError
from offline.rows import Row
from service.answers import PictureError, Prediction

ROWS_AT_A_TIME = 10_000
"""Of Parquet, which are kept in memory and make a row group."""

SCHEMA = arrow.schema(
    [
        ("path", arrow.string()),
        ("model", arrow.string()),
        ("version", arrow.int64()),
        ("labels", arrow.list_(arrow.string())),
        ("class_ids", arrow.list_(arrow.int64())),
        ("probabilities", arrow.list_(arrow.float64())),
        ("error_code", arrow.string()),
        ("error_message", arrow.string()),
    ]
)


Kind = tuple[str, int, int]
"""Of rows: model, version and number of classes."""


class Output(Protocol):
    """A file of rows that is open; valid as soon as it is left, whatever has happened."""

    def write(self, row: Row) -> None:
        """Add a row."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass
class Before:
    """What an output holds that is resumed."""

    done: set[str] = field(default_factory=set)
    """Paths of its rows."""
    kind: Kind | None = None
    """Of its rows; None if none tells."""

    def add(self, row: Row) -> None:
        """It holds this row."""
        self.done.add(row.path)
        self.kind = self.kind or _kind(row)

    def require_same(self, row: Row) -> None:
        """Raise OfflineError if the row is another model's, or of another number of classes."""
        self.require(_kind(row))

    def require(self, kind: Kind | None) -> None:
        """Raise OfflineError if its rows are of another kind; None: that does not tell."""
        if self.kind is not None and kind is not None and kind != self.kind:
            raise OfflineError(
                f"the output holds {self.kind[2]} classes a picture by {self.kind[0]} version {self.kind[1]}, these "
                f"would be {kind[2]} by {kind[0]} version {kind[1]}; write to another file"
            )


def _kind(row: Row) -> Kind | None:
    return (row.model, row.version, len(row.predictions)) if row.predictions else None


def open_output(path: Path, top_k: int, *, resume: bool) -> tuple[Output, Before]:
    """An output by its extension: .csv, .jsonl or .parquet.

    Args:
        path: where.
        top_k: most classes of a row.
        resume: keep what is there, but for a last line that was cut off; else the file is written anew.

    Raises:
        OfflineError: another extension, or the file is there and no such output.
    """
    before = Before()
    try:
        match path.suffix.lower():
            case ".jsonl":
                return JsonLines(path, before, resume=resume), before
            case ".csv":
                return Csv(path, before, top_k, resume=resume), before
            case ".parquet":
                return Parquet(path, before, resume=resume), before
    except (OSError, ValueError, KeyError, IndexError, arrow.ArrowException) as error:
        raise OfflineError(f"{path} cannot be {'resumed' if resume else 'written'}: {error}") from error
    raise OfflineError(f"{path} has to end in .csv, .jsonl or .parquet")


class _Lines:
    """A text file of whole lines. Not buffered, so that at most the last one is cut off when the process is killed."""

    def __init__(self, path: Path, *, resume: bool) -> None:
        self._file = path.open("r+b" if resume and path.exists() else "w+b", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _lines(self) -> Iterator[str]:
        """Those that are there. Cuts off what follows them."""
        whole = 0
        with io.BufferedReader(io.FileIO(self._file.fileno(), "rb", closefd=False)) as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                yield line.decode()
        self._file.truncate(whole)
        self._file.seek(whole)


class JsonLines(_Lines):
    """A JSON object a line."""

    def __init__(self, path: Path, before: Before, *, resume: bool) -> None:
        super().__init__(path, resume=resume)
        for line in self._lines():
            before.add(_from_record(orjson.loads(line)))

    def write(self, row: Row) -> None:
        self._file.write(orjson.dumps(record_of(row), option=orjson.OPT_APPEND_NEWLINE))


class Csv(_Lines):
    """RFC 4180, but for lines that end as Unix has it."""

    def __init__(self, path: Path, before: Before, top_k: int, *, resume: bool) -> None:
        super().__init__(path, resume=resume)
        self._top_k = top_k
        header = ["path", "model", "version", "error_code", "error_message"]
        for place in range(1, top_k + 1):
            header += [f"label_{place}", f"class_id_{place}", f"probability_{place}"]
        lines = csv.reader(self._lines())
        there = next(lines, None)
        if there is None:
            self._write(header)
        elif there != header:
            raise ValueError("its columns are others, perhaps of another --top-k")
        for cells in lines:
            before.add(_from_cells(cells))

    def write(self, row: Row) -> None:
        error = row.error or PictureError(code="", message="")
        cells: list[object] = [row.path, row.model, row.version, error.code, error.message]
        for prediction in row.predictions:
            cells += [prediction.label, prediction.class_id, prediction.probability]
        self._write(cells + [""] * 3 * (self._top_k - len(row.predictions)))

    def _write(self, cells: Iterable[object]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(cells)
        self._file.write(line.getvalue().encode())


class Parquet:
    """Written beside its place and put there when it is left, as a Parquet file without its end cannot be read."""

    def __init__(self, path: Path, before: Before, *, resume: bool) -> None:
        self._path = path
        self._unfinished = path.with_name(path.name + ".unfinished")
        self._rows: list[Row] = []
        there = parquet.ParquetFile(path) if resume and path.exists() else None
        if there is not None and there.schema_arrow != SCHEMA:
            raise ValueError("its columns are others")
        self._writer = parquet.ParquetWriter(self._unfinished, SCHEMA)
        if there is not None:
            for batch in there.iter_batches(ROWS_AT_A_TIME):
                self._writer.write_batch(batch)
                for record in batch.to_pylist():
                    before.add(row_of_columns(record))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._write_rows()
        self._writer.close()
        self._unfinished.replace(self._path)

    def write(self, row: Row) -> None:
        self._rows.append(row)
        if len(self._rows) == ROWS_AT_A_TIME:
            self._write_rows()

    def _write_rows(self) -> None:
        columns = [columns_of(row) for row in self._rows]
        self._writer.write_table(arrow.Table.from_pylist(columns, SCHEMA))
        self._rows = []


def record_of(row: Row) -> dict[str, Any]:
    """A row as JSON has it."""
    record: dict[str, Any] = {"path": row.path, "model": {"name": row.model, "version": row.version}}
    if row.error is None:
        return record | {"predictions": [asdict(prediction) for prediction in row.predictions]}
    return record | {"error": asdict(row.error)}


def _from_record(record: dict[str, Any]) -> Row:
    predictions = tuple(Prediction(**each) for each in record.get("predictions", ()))
    return Row(record["path"], record["model"]["name"], record["model"]["version"], predictions)


def _from_cells(cells: list[str]) -> Row:
    values = [cells[start : start + 3] for start in range(5, len(cells), 3)]
    predictions = tuple(
        Prediction(label=label, class_id=int(class_id), probability=float(probability))
        for label, class_id, probability in values
        if class_id
    )
    return Row(cells[0], cells[1], int(cells[2]), predictions)


def columns_of(row: Row) -> dict[str, Any]:
    """A row as `SCHEMA` has it."""
    return {
        "path": row.path,
        "model": row.model,
        "version": row.version,
        "labels": [each.label for each in row.predictions],
        "class_ids": [each.class_id for each in row.predictions],
        "probabilities": [each.probability for each in row.predictions],
        "error_code": row.error and row.error.code,
        "error_message": row.error and row.error.message,
    }


def row_of_columns(record: dict[str, Any]) -> Row:
    """The row that `columns_of` was given."""
    values = zip(record["labels"], record["class_ids"], record["probabilities"], strict=True)
    predictions = tuple(
        Prediction(label=label, class_id=class_id, probability=probability) for label, class_id, probability in values
    )
    return Row(record["path"], record["model"], record["version"], predictions)
