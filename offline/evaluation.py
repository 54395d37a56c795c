"""A model judged by pictures of known classes: from a folder to numbers."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pydantic import BaseModel

from offline.comparison import Comparison
from offline.errors import OfflineError
from offline.folders import LabelledFolder
from offline.measures import Measures, Mistake
from offline.model import Model
from offline.rows import shown
from offline.scoring import ScoredPicture, score
from offline.sources import of_files
from service.body import MEBIBYTE
from service.errors import ServiceError

WORST_PAIRS = 10

Each = Callable[[Iterable[tuple[ScoredPicture, ...]]], Iterable[tuple[ScoredPicture, ...]]]
"""Passes pictures on, and may show how many there have been."""


class Unclassified(BaseModel):
    """A picture that is not counted, as there is no answer for it."""

    path: str
    code: str
    message: str


class ClassResult(BaseModel):
    """One class's pictures."""

    label: str
    pictures: int
    recall: float | None
    """How many of them are taken for it: the accuracy on the class. None without pictures."""
    precision: float | None
    """How many of those taken for it are of it. None if none are."""


class Pair(BaseModel):
    """Pictures of one class that are taken for another one."""

    label: str
    taken_for: str
    pictures: int


class Result(BaseModel):
    """A model on the pictures."""

    model: str
    version: int
    precision: str
    pictures: int
    top1: float
    top1_interval: tuple[float, float]
    """Of 95 % (Wilson)."""
    top5: float
    calibration_error: float
    log_loss: float
    classes: list[ClassResult]
    worst_pairs: list[Pair]


class Disagreement(BaseModel):
    """A picture that two models take for different classes."""

    path: str
    label: str
    model: str
    against: str


class ComparisonResult(BaseModel):
    """The model beside another one, on the same pictures."""

    agreement: float
    both_right: int
    model_alone_right: int
    against_alone_right: int
    neither_right: int
    p_value: float
    """Of McNemar's exact test: how probable so uneven a share of the right ones is by chance."""
    max_abs_probability_difference: float
    disagreements: list[Disagreement]
    """The first ones."""


class Evaluation(BaseModel):
    """All that is found out, as the JSON has it."""

    folder: str
    result: Result
    against: Result | None
    comparison: ComparisonResult | None
    unclassified: list[Unclassified]
    unknown_folders: list[str]
    """Named as no class of the model; their pictures are left out."""


@dataclass
class Judgement:
    """The numbers, and what a report shows besides."""

    evaluation: Evaluation
    measures: Measures
    mistakes: list[Mistake] = field(default_factory=list)
    """The model's most confident ones, surest first."""


def evaluate(name: str, folder: LabelledFolder, model: Model, against: Model | None, each: Each) -> Judgement:
    """Classify the pictures by one model or two, and judge the answers.

    Args:
        name: what the folder is called.
        folder: the pictures.
        model: which is judged.
        against: which it is compared with; None: none.
        each: passes the pictures on.

    Raises:
        OfflineError: the models have other labels, or no picture can be classified.
    """
    models = [model] if against is None else [model, against]
    labels = model.artifact.labels
    if against is not None and against.artifact.labels != labels:
        raise OfflineError(f"{model.name} and {against.name} know different classes, or in another order")
    measures = [Measures(len(labels)) for _ in models]
    comparison = Comparison()
    unclassified = []
    paths = [picture.path for picture in folder.pictures]
    scored = zip(*(score(one, of_files(paths, one.settings.max_image_mb * MEBIBYTE)) for one in models), strict=True)
    for picture, results in zip(folder.pictures, each(scored), strict=True):
        path = shown(picture.path)
        failed = next((one.result for one in results if isinstance(one.result, ServiceError)), None)
        if failed is not None:
            unclassified.append(Unclassified(path=path, code=failed.code, message=" ".join(str(failed).split())))
            continue
        answers = [one.result for one in results if not isinstance(one.result, ServiceError)]
        for measure, answer in zip(measures, answers, strict=True):
            measure.add(path, picture.class_id, answer)
        if against is not None:
            comparison.add(path, picture.class_id, *answers)
    if not measures[0].pictures:
        raise OfflineError(f"none of the {len(paths)} pictures can be classified; the first: {unclassified[0].message}")
    judged = [_result(one, measure) for one, measure in zip(models, measures, strict=True)]
    evaluation = Evaluation(
        folder=name,
        result=judged[0],
        against=judged[1] if against is not None else None,
        comparison=_compared(comparison, labels) if against is not None else None,
        unclassified=unclassified,
        unknown_folders=list(folder.unknown),
    )
    return Judgement(evaluation, measures[0], sorted(measures[0].mistakes, reverse=True))


def _result(model: Model, measures: Measures) -> Result:
    labels = model.artifact.labels
    return Result(
        model=model.name,
        version=model.version,
        precision=model.artifact.precision,
        pictures=measures.pictures,
        top1=measures.top1,
        top1_interval=measures.interval,
        top5=measures.top5,
        calibration_error=measures.calibration_error,
        log_loss=measures.log_loss,
        classes=[
            ClassResult(
                label=label,
                pictures=int(measures.confusion[number].sum()),
                recall=measures.recall(number),
                precision=measures.precision(number),
            )
            for number, label in enumerate(labels)
        ],
        worst_pairs=[
            Pair(label=labels[one], taken_for=labels[other], pictures=count)
            for one, other, count in measures.worst_pairs(WORST_PAIRS)
        ],
    )


def _compared(comparison: Comparison, labels: tuple[str, ...]) -> ComparisonResult:
    return ComparisonResult(
        agreement=comparison.agree / comparison.pictures,
        both_right=comparison.both_right,
        model_alone_right=comparison.one_right,
        against_alone_right=comparison.other_right,
        neither_right=comparison.neither_right,
        p_value=comparison.p_value,
        max_abs_probability_difference=comparison.max_abs_probability_difference,
        disagreements=[
            Disagreement(
                path=each.path, label=labels[each.class_id], model=labels[each.one], against=labels[each.other]
            )
            for each in comparison.differences
        ],
    )
