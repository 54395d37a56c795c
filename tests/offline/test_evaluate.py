"""`strip-mlp-evaluate`, run as people run it."""

import json
import re
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from offline.folders import LabelledFolder
from tests.offline.conftest import command, environment
from tests.service import colours
from tests.service.pictures import png
from tests.service.test_page import CHROMIUM, needs_chromium

Evaluate = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def evaluate(models: Path) -> Evaluate:
    """Runs the command to its end."""

    def run(*arguments: object, repository: Path = models) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command("offline.evaluate", *arguments),
            env=environment(repository) | {"COLUMNS": "200"},
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three of red, of which one is green; two of green; one of blue that cannot be read; and one of no class."""
    shown: dict[str, list[str | None]] = {
        "red": ["red", "red", "lime"],
        "GREEN": ["lime", "lime"],
        "blue": [None],
        "pink": ["red"],
    }
    for name, pictures in shown.items():
        (tmp_path / "own" / name).mkdir(parents=True)
        for number, colour in enumerate(pictures):
            data = b"no picture" if colour is None else png(colour)
            (tmp_path / "own" / name / f"{number}.png").write_bytes(data)
    return tmp_path / "own"


def test_json_has_every_figure(evaluate: Evaluate, folder: Path) -> None:
    done = evaluate(folder, "--json")

    assert done.returncode == 0, done.stderr
    evaluation = json.loads(done.stdout)
    result = evaluation["result"]
    assert (evaluation["folder"], result["model"], result["version"], result["precision"]) == (
        "own",
        "colours",
        1,
        "fp32",
    )
    assert (result["pictures"], result["top1"], result["top5"]) == (5, 0.8, 1)
    assert [(each["label"], each["pictures"], each["recall"], each["precision"]) for each in result["classes"]] == [
        ("red", 3, pytest.approx(2 / 3), 1),
        ("green", 2, 1, pytest.approx(2 / 3)),
        ("blue", 0, None, None),
    ]
    assert result["worst_pairs"] == [{"label": "red", "taken_for": "green", "pictures": 1}]
    assert evaluation["unknown_folders"] == ["pink"]
    (unclassified,) = evaluation["unclassified"]
    assert (Path(unclassified["path"]).name, unclassified["code"]) == ("0.png", "unsupported_picture")
    assert evaluation["comparison"] is None


def test_tables_show_what_is_left_out(evaluate: Evaluate, folder: Path) -> None:
    done = evaluate(folder)
    assert "80.00%" in done.stdout
    assert re.search(r"red +green +1\b", done.stdout)
    assert "left out: folder pink is no class of the model" in done.stderr
    assert "not a readable picture" in done.stderr


def test_two_models_are_compared(evaluate: Evaluate, models: Path, folder: Path) -> None:
    colours.save_served(models, "colours", 2)
    colours.save_served(models, "others", 1, labels=("rouge", "vert", "bleu"))

    same = json.loads(evaluate(folder, "--json", "--model", "colours:1", "--against", "colours").stdout)
    other = evaluate(folder, "--model", "colours", "--against", "others")

    assert same["against"]["version"] == 2
    assert same["comparison"] == {
        "agreement": 1,
        "both_right": 4,
        "model_alone_right": 0,
        "against_alone_right": 0,
        "neither_right": 1,
        "p_value": 1,
        "max_abs_probability_difference": 0,
        "disagreements": [],
    }
    assert other.returncode == 1
    assert "know different classes" in other.stderr
    assert "They agree on 100.00%" in evaluate(folder, "--model", "colours:1", "--against", "colours").stdout


@pytest.mark.parametrize(("least", "status"), [("79", 0), ("80", 0), ("81", 1)])
def test_an_accuracy_may_be_demanded(evaluate: Evaluate, folder: Path, least: str, status: int) -> None:
    assert evaluate(folder, "--min-top1", least).returncode == status


def test_the_bundled_models_accuracy_on_the_sample(
    evaluate: Evaluate, shared: Path, bundled_models: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(shared / "data" / "cifar10_test_1000.zip") as pictures:
        pictures.extractall(tmp_path / "cifar")

    result = json.loads(evaluate(tmp_path / "cifar", "--json", repository=bundled_models).stdout)["result"]

    card = (bundled_models.parent / "README.md").read_text("utf-8")
    assert (result["pictures"], result["top1"]) == (1000, 0.852)
    assert "85.2 % of the 1,000" in card
    # The card's 85.02 % are those of all 10,000.
    assert result["top1_interval"][0] < 0.8502 < result["top1_interval"][1]


@pytest.mark.parametrize(
    ("inside", "why"),
    [
        (None, "is not a directory"),
        ([], "no folder of pictures that is named"),
        (["pink/a.png"], "no folder of pictures that is named as one of the model's classes (red, green, blue)"),
        (["red/notes.txt"], "no folder of pictures that is named"),
        (["a.png"], "no folder of pictures that is named"),
        (["red/a.png"], "none of the 1 pictures can be classified"),
    ],
)
def test_a_folder_that_cannot_be_judged_is_refused(
    evaluate: Evaluate, tmp_path: Path, inside: list[str] | None, why: str
) -> None:
    for name in inside or ():
        path = tmp_path / "given" / name
        path.parent.mkdir(parents=True)
        path.write_text("no picture")
    if inside == []:
        (tmp_path / "given").mkdir()

    done = evaluate(tmp_path / "given")

    assert done.returncode == 1
    assert why in done.stderr.replace("\n", " ")


def test_folders_may_have_any_of_a_labels_names(tmp_path: Path) -> None:
    labels = ("tench, Tinca tinca", "crane", "crane, bird", "white wolf, Arctic_wolf")
    wanted = {"tench": 0, "Tinca_Tinca": 0, "tench, Tinca tinca": 0, "crane": 1, "Crane, bird": 2, "arctic wolf": 3}
    for name in (*wanted, "wolf"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.JPG").touch()

    folder = LabelledFolder.read(tmp_path, labels)

    assert {picture.path.parent.name: picture.class_id for picture in folder.pictures} == wanted
    assert folder.unknown == ["wolf"]


@needs_chromium
def test_the_report_is_a_page_of_its_own(evaluate: Evaluate, tmp_path: Path) -> None:
    hostile = "<img src=x onerror=document.title='taken'>"
    models = tmp_path / "hostile"
    colours.save_served(models, "colours", 1, labels=(hostile, "green $x$ & co", "blue"))
    (tmp_path / "own" / "blue").mkdir(parents=True)
    (tmp_path / "own" / "blue" / "<script>document.title='taken'<script>.png").write_bytes(png("red"))
    (tmp_path / "own" / "blue" / "right.png").write_bytes(png("blue"))

    done = evaluate(tmp_path / "own", "--report", tmp_path / "report.html", repository=models)

    assert done.returncode == 0, done.stderr
    text = (tmp_path / "report.html").read_text("utf-8")
    assert hostile not in text
    assert not re.findall(r"""(?:src|href|url\()\s*=?\s*["']?(?!data:)\w+:""", text)
    assert CHROMIUM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--dump-dom"]
    shown = subprocess.run(
        [CHROMIUM, *options, f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "report.html").as_uri()],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    assert "<title>colours on own</title>" in shown
    assert shown.count("<img ") == 3, "two plots and one mistake"
    assert "50.00 %" in shown


def test_a_report_that_cannot_be_written_is_an_error(evaluate: Evaluate, folder: Path) -> None:
    done = evaluate(folder, "--report", "/none/report.html")
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
