"""`strip-mlp-classify --ray`, on a Ray cluster that it joins, whose processes were started in another folder."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pyarrow.dataset as datasets
import pyarrow.parquet as parquet
import pytest

from tests.conftest import REPOSITORY
from tests.offline.conftest import COLOURS, environment
from tests.service import colours
from tests.service.pictures import png

CUT = "resumed/cut.parquet"
"""A file of an output that was being written when the job ended: the end is missing. Made after the command `part`."""

# Ray changes the process that it is used in, so that is another one. It is started once, which takes ten seconds.
COMMANDS = """
import json, os, sys
from pathlib import Path
from ray.cluster_utils import Cluster
from typer.testing import CliRunner
from offline.classify import main
here = Path.cwd()
os.chdir("/")
machine = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 200 << 20})
os.chdir(here)
os.environ["RAY_ADDRESS"] = machine.address
for name, arguments in json.loads(sys.argv[1]).items():
    if name == "resumed":
        Path(sys.argv[2]).write_bytes(b"PAR1")
    done = CliRunner().invoke(main, arguments)
    print(json.dumps({"status": done.exit_code, "told": done.output}), flush=True)
"""

LABELS = dict(zip(COLOURS, ("red", "green", "blue"), strict=True))


@dataclass(frozen=True)
class Done:
    """What several commands did, one after the other."""

    folder: Path
    told: dict[str, dict[str, Any]]

    def rows(self, output: str) -> dict[str, dict[str, Any]]:
        """Of an output, by path; none is there twice."""
        records = datasets.dataset(self.folder / output, format="parquet").to_table().to_pylist()
        rows = {record["path"]: record for record in records}
        assert len(rows) == len(records)
        return rows


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("spread")
    colours.save_served(folder / "models")
    colours.save_served(folder / "others", "others")
    (folder / "pictures" / "more").mkdir(parents=True)
    for number in range(30):
        (folder / "pictures" / f"{number}.png").write_bytes(png(COLOURS[number % 3]))
    (folder / "pictures" / "more" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "pictures" / "notes.txt").write_text("no picture")
    (folder / "many").mkdir()
    for number in range(100):
        (folder / "many" / f"{number:02}.png").write_bytes(b"none" if number == 50 else png(COLOURS[number % 3]))
    (folder / "few").mkdir()
    for number in range(5):
        (folder / "few" / f"{number}.png").write_bytes(png(COLOURS[number % 3]))
    parquet.write_table(
        arrow.table(
            {
                "path": ["a", "b", "c", "large", "empty"],
                "bytes": [png("red"), b"none", png("blue"), bytes((1 << 20) + 1), None],
            }
        ),
        folder / "pictures.parquet",
    )
    parquet.write_table(arrow.table({"path": ["a"], "picture": [png("red")]}), folder / "others.parquet")
    (folder / "file").write_text("no folder")
    (folder / "foreign").mkdir()
    parquet.write_table(arrow.table({"path": ["a"]}), folder / "foreign" / "rows.parquet")
    commands = {
        "folder": ["pictures", "--output", "folder"],
        "again": ["pictures", "--output", "folder"],
        "many": ["many", "--output", "many results"],
        "nothing left": ["many", "--output", "many results", "--resume"],
        "a file": ["few", "--output", "a file", "--model", "models/colours/1/model.onnx"],
        "url": [f"file://{folder}/pictures", "--output", f"file://{folder}/url", "--top-k", "2"],
        "parquet": ["pictures.parquet", "--output", "parquet", "--strict"],
        "part": ["pictures/1*.png", "--output", "resumed"],
        "resumed": ["pictures", "--output", "resumed", "--resume"],
        "parquet, resumed": ["pictures.parquet", "--output", "parquet", "--resume"],
        "other model": ["few", "--output", "resumed", "--resume", "--models", "others"],
        "overwritten": ["few", "--output", "resumed", "--overwrite", "--models", "others"],
        "both": ["few", "--output", "parquet", "--resume", "--overwrite"],
        "columns": ["others.parquet", "--output", "columns"],
        "file": ["few", "--output", "file"],
        "foreign": ["few", "--output", "foreign", "--resume"],
        "nowhere": ["few"],
        "missing": ["missing.parquet", "--output", "missing"],
    }
    given = json.dumps({name: [*arguments, "--ray"] for name, arguments in commands.items()})
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMMANDS, given, CUT], cwd=folder, check=False,
        env=environment(folder / "models") | {"PYTHONPATH": str(REPOSITORY), "STRIPMLP_MAX_IMAGE_MB": "1"},
        stdout=subprocess.PIPE, text=True, timeout=280,
    )  # fmt: skip
    told = [json.loads(line) for line in run.stdout.splitlines() if line.startswith('{"status"')]
    assert len(told) == len(commands), told
    return Done(folder, dict(zip(commands, told, strict=True)))


def test_a_folder(done: Done) -> None:
    rows = done.rows("folder")

    assert done.told["folder"]["status"] == 0
    assert "30 classified, 1 unsupported_picture" in done.told["folder"]["told"]
    assert rows.keys() == {f"pictures/{number}.png" for number in range(30)} | {"pictures/more/broken.jpg"}
    assert rows["pictures/more/broken.jpg"]["error_code"] == "unsupported_picture"
    for number in range(30):
        row = rows[f"pictures/{number}.png"]
        assert row["labels"][0] == LABELS[COLOURS[number % 3]]
        assert (row["model"], row["version"], len(row["probabilities"]), row["error_code"]) == ("colours", 1, 3, None)


def test_a_broken_picture_among_many_costs_itself_alone(done: Done) -> None:
    rows = done.rows("many results")

    assert "99 classified, 1 unsupported_picture" in done.told["many"]["told"]
    assert len(rows) == 100
    for path, row in rows.items():
        number = int(Path(path).stem)
        assert row["labels"][:1] == ([] if number == 50 else [LABELS[COLOURS[number % 3]]])
    assert done.told["nothing left"]["status"] == done.told["many"]["status"]
    last, before = (done.told[command]["told"].splitlines()[-1] for command in ("nothing left", "many"))
    assert last == before  # above may be lines of Ray's own


def test_the_file_of_a_model(done: Done) -> None:
    assert done.told["a file"]["status"] == 0
    assert {row["model"] for row in done.rows("a file").values()} == {"model"}


def test_what_is_there_is_not_written_over_without_being_asked(done: Done) -> None:
    assert done.told["again"]["status"] == 1
    assert "--resume" in done.told["again"]["told"]
    assert done.told["nowhere"]["status"] == 1
    assert "--output" in done.told["nowhere"]["told"]
    assert done.told["missing"]["status"] == 1
    assert "missing.parquet" in done.told["missing"]["told"]


def test_the_url_of_a_folder(done: Done) -> None:
    rows, plain = done.rows("url"), done.rows("folder")

    assert rows.keys() == {f"file://{done.folder}/{path}" for path in plain}
    assert all(len(row["labels"]) in (0, 2) for row in rows.values())


def test_pictures_in_a_parquet_file(done: Done) -> None:
    rows = done.rows("parquet")

    assert done.told["parquet"]["status"] == 1  # as --strict asks
    assert [rows[path]["labels"][:1] for path in "abc"] == [["red"], [], ["blue"]]
    assert [rows[path]["error_code"] for path in ("b", "large", "empty")] == [
        "unsupported_picture",
        "picture_too_large",
        "unreadable_file",
    ]


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("both", "--resume goes not with --overwrite"),
        ("columns", "others.parquet has no column bytes"),
        ("file", "the work on the cluster failed"),
        ("foreign", "the work on the cluster failed"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(done: Done, command: str, reason: str) -> None:
    told = done.told[command]["told"]

    assert done.told[command]["status"] == 1
    assert reason in " ".join(told.split())
    assert "Traceback" not in told


def test_a_job_that_was_ended_goes_on(done: Done) -> None:
    assert "11 classified" in done.told["part"]["told"]
    assert CUT in done.told["resumed"]["told"]
    assert "30 classified, 1 unsupported_picture" in done.told["resumed"]["told"]
    assert done.told["parquet, resumed"]["told"].endswith(done.told["parquet"]["told"].splitlines()[-1] + "\n")


def test_another_model_may_overwrite_but_not_resume(done: Done) -> None:
    assert done.told["other model"]["status"] == 1
    assert "write to another file" in done.told["other model"]["told"]
    assert done.told["overwritten"]["status"] == 0
    assert {row["model"] for row in done.rows("resumed").values()} == {"others"}
