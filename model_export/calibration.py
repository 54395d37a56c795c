"""Pictures for a quantised model: some to calibrate it, the others held back to judge it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from model_export.errors import OptionError
from service.artifact import Artifact
from service.errors import BadPicture
from service.pixels import read_pixels
from service.preprocessing import Pixels
from service.settings import Settings

LEAST = 200
MOST_TO_CALIBRATE = 256
MOST_HELD_BACK = 1024


@dataclass(frozen=True)
class Judged:
    """Pictures that a model is judged by."""

    pixels: Pixels
    classes: NDArray[np.intp]
    """The class of each, -1 where the folder does not tell."""


@dataclass(frozen=True)
class CalibrationSet:
    """What a folder holds, divided: no picture is in both parts."""

    calibration: Judged
    held_back: Judged
    described: str
    """Which pictures are in which part."""

    @classmethod
    def read(cls, folder: Path, artifact: Artifact, progress: Progress) -> Self:
        """Read a folder of pictures, with folders in it or not; those named as labels tell their pictures' class.

        At most `MOST_TO_CALIBRATE` pictures, evenly spread over the sorted paths, but no more than half of them, are
        for calibration; of the others, at most `MOST_HELD_BACK`, evenly spread, are held back.

        Raises:
            OptionError: there is no such folder, it has too few pictures, or one cannot be used.
        """
        if not folder.is_dir():
            raise OptionError(f"--calibration {folder} is not a directory")
        paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        if len(paths) < LEAST:
            raise OptionError(
                f"--calibration {folder} holds {len(paths)} files; at least {LEAST} pictures are needed, "
                "of which one half calibrates and the other one judges"
            )
        chosen = set(_spread(len(paths), min(MOST_TO_CALIBRATE, len(paths) // 2)))
        others = [index for index in range(len(paths)) if index not in chosen]
        held = [others[index] for index in _spread(len(others), min(MOST_HELD_BACK, len(others)))]
        chosen_paths, held_paths = [paths[index] for index in sorted(chosen)], [paths[index] for index in held]
        return cls(
            calibration=_read(chosen_paths, artifact, progress, "Pictures to calibrate"),
            held_back=_read(held_paths, artifact, progress, "Pictures held back"),
            described=f"{len(held)} held back of the {len(paths)} pictures of {folder.name}; "
            f"{len(chosen)} others, evenly spread over the sorted paths, calibrated it",
        )


def _spread(count: int, wanted: int) -> list[int]:
    return [index * count // wanted for index in range(wanted)]


def _read(paths: list[Path], artifact: Artifact, progress: Progress, description: str) -> Judged:
    limit = Settings.model_fields["max_pixels"].default
    classes = {label: number for number, label in enumerate(artifact.labels)}
    pixels = []
    for path in progress.track(paths, description=description):
        try:
            pixels.append(read_pixels(path.read_bytes(), artifact.preprocessing, max_pixels=limit, exact=True))
        except BadPicture as error:
            raise OptionError(f"--calibration: {path} cannot be used: {error}") from error
    return Judged(np.stack(pixels), np.array([classes.get(path.parent.name, -1) for path in paths]))
