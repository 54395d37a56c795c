"""Rows come back from each kind of file as they were written."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline import outputs
from offline.outputs import open_output
from offline.rows import Row, shown
from service.answers import PictureError, Prediction

TEXT = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1)

PREDICTIONS = st.lists(
    st.builds(Prediction, label=TEXT, class_id=st.integers(0, 1000), probability=st.floats(0, 1)),
    min_size=3,
    max_size=3,
)

ROWS = st.lists(
    st.one_of(
        st.builds(Row, TEXT, st.just("m"), st.just(2), PREDICTIONS.map(tuple)),
        st.builds(Row, TEXT, st.just("m"), st.just(2), error=st.builds(PictureError, code=TEXT, message=TEXT)),
    )
)


@given(ROWS, ROWS, st.sampled_from(["csv", "jsonl", "parquet"]))
def test_rows_are_found_again(first: list[Row], second: list[Row], kind: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, f"rows.{kind}")
        for rows in (first, second):
            output, before = open_output(path, 3, resume=True)
            with output:
                for row in rows:
                    output.write(row)
        output, before = open_output(path, 3, resume=True)
        with output:
            pass
        rows = first + second
        assert before.done == {row.path for row in rows}
        assert before.kind == (("m", 2, 3) if any(row.predictions for row in rows) else None)


def test_parquet_is_written_a_part_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "ROWS_AT_A_TIME", 4)
    output, _ = open_output(tmp_path / "rows.parquet", 1, resume=False)
    with output:
        for number in range(10):
            output.write(Row(str(number), "m", 1))
    file = parquet.ParquetFile(tmp_path / "rows.parquet")
    assert [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)] == [4, 4, 2]


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name))
def test_any_name_is_one_line_of_utf_8(name: bytes) -> None:
    text = shown(Path(name.decode("utf-8", "surrogateescape")))
    assert text.encode().decode() == text
    assert len(text.splitlines()) <= 1
