"""A judgement as a page that needs nothing but itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from offline.evaluation import Judgement
from offline.plots import confusion_matrix, reliability_diagram, thumbnail
from service.settings import Settings


def report(judgement: Judgement, labels: Sequence[str], settings: Settings) -> str:
    """HTML, in which names of files and labels are text whatever they hold.

    Args:
        judgement: what it tells.
        labels: the model's.
        settings: limits of the pictures that it shows.
    """
    environment = Environment(loader=PackageLoader("offline", "."), autoescape=True, undefined=StrictUndefined)
    mistakes: list[dict[str, Any]] = [
        {
            "path": mistake.path,
            "label": labels[mistake.class_id],
            "taken_for": labels[mistake.taken_for],
            "probability": mistake.probability,
            "thumbnail": thumbnail(Path(mistake.path), settings),
        }
        for mistake in judgement.mistakes
    ]
    return environment.get_template("report.html").render(
        evaluation=judgement.evaluation,
        confusion=confusion_matrix(judgement.measures, labels),
        reliability=reliability_diagram(judgement.measures),
        mistakes=mistakes,
    )
