"""Order, look-ahead and isolation."""

import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from offline.model import open_model
from offline.scoring import AHEAD, in_order, in_parts, score
from offline.sources import of_files
from service.errors import InferenceFailed
from service.preprocessing import Pixels
from service.session import Scores, Session
from service.settings import Settings
from tests.service.live import PATIENCE


def test_parts_come_in_order_and_only_a_few_are_ahead() -> None:
    taken = 0
    first_may_end = threading.Event()

    def numbers() -> Iterator[int]:
        nonlocal taken
        for taken in count():
            if taken == AHEAD * 3:
                first_may_end.set()
            yield taken

    def make(number: int) -> int:
        if number == 0:
            assert first_may_end.wait(PATIENCE)
        return number

    made = in_order(make, numbers(), 3)
    assert [next(made) for _ in range(50)] == list(range(50))
    assert taken <= 50 + AHEAD * 3
    made.close()


def test_what_fails_fails_where_it_is_asked_for() -> None:
    made = in_order(lambda number: 1 // number, [1, 0], 2)
    assert next(made) == 1
    with pytest.raises(ZeroDivisionError):
        next(made)


def test_a_batch_that_fails_costs_the_culprit_alone(
    models: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_model(None, Settings(models=models, device="cpu", batch_limit=4))
    run = Session.run

    def fail_on_green(session: Session, pixels: Pixels) -> Scores:
        if any(np.argmax(each.mean(axis=(0, 1))) == 1 for each in pixels):
            raise RuntimeError("green")
        return run(session, pixels)

    monkeypatch.setattr(Session, "run", fail_on_green)
    files = sorted(pictures.rglob("*.png"))

    scored = list(score(model, of_files(files, 1 << 20)))

    assert [each.name for each in scored] == [str(file) for file in files]
    for each in scored:
        number = int(Path(each.name).stem)
        if number % 3 == 1:
            assert isinstance(each.result, InferenceFailed)
        else:
            assert isinstance(each.result, Scores)
            assert each.result.logits.argmax() == number % 3


def test_paths_are_parted_without_loss() -> None:
    paths = [Path(str(number)) for number in range(10)]
    parts = list(in_parts(iter(paths), 4))
    assert [len(part) for part in parts] == [4, 4, 2]
    assert [path for part in parts for path in part] == paths
