"""The command `strip-mlp-evaluate`: how good a model is on one's own pictures."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from offline.classify import fail, settings_of
from offline.errors import OfflineError
from offline.evaluation import Evaluation, evaluate
from offline.folders import LabelledFolder
from offline.model import open_model
from offline.progress import console, shown_progress
from offline.report import report
from offline.scoring import ScoredPicture

main = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

MODEL_HELP = "Name, name:version, or ONNX file.  [default: the only one, or STRIPMLP_DEFAULT_MODEL]"


@main.command()
def evaluate_command(
    folder: Annotated[Path, typer.Argument(help="Directory with a folder of pictures for each class.")],
    model: Annotated[str | None, typer.Option(help=MODEL_HELP)] = None,
    against: Annotated[str | None, typer.Option(help="Another model, on the same pictures, to compare with.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    report_file: Annotated[
        Path | None, typer.Option("--report", help="HTML file with plots and the most confident mistakes.")
    ] = None,
    min_top1: Annotated[
        float | None, typer.Option(min=0, max=100, help="End with 1 if the top-1 accuracy is below, per cent.")
    ] = None,
    models: Annotated[Path | None, typer.Option(help="Model repository.  [default: STRIPMLP_MODELS]")] = None,
    device: Annotated[str | None, typer.Option(help="As of strip-mlp-serve.  [default: STRIPMLP_DEVICE]")] = None,
) -> None:
    """Judge a model by pictures of known classes, decoded and batched as the service does it.

    Pictures that cannot be classified and folders that are no class are left out of all figures, and listed.
    """
    try:
        settings = settings_of(models, device)
        judged = open_model(model, settings)
        other = None if against is None else open_model(against, settings)
        pictures = LabelledFolder.read(folder, judged.artifact.labels)

        def each(scored: Iterable[tuple[ScoredPicture, ...]]) -> Iterator[tuple[ScoredPicture, ...]]:
            return shown_progress(scored, "evaluating", lambda: len(pictures.pictures))

        judgement = evaluate(folder.resolve().name, pictures, judged, other, each)
        if report_file is not None:
            report_file.write_text(report(judgement, judged.artifact.labels, settings), "utf-8")
    except OfflineError as error:
        fail(error)
    except OSError as error:
        fail(OfflineError(f"{report_file} cannot be written: {error.strerror}"))
    evaluation = judgement.evaluation
    if as_json:
        typer.echo(evaluation.model_dump_json(indent=2))
    else:
        _print(evaluation)
    if min_top1 is not None and 100 * evaluation.result.top1 < min_top1:
        console.print(f"top-1 is below {min_top1:g} %", highlight=False)
        raise typer.Exit(1)


def _print(evaluation: Evaluation) -> None:
    out = Console()
    table = _table("model", "pictures", "top-1", "95 % interval", "top-5", "calibration error", "log loss")
    for result in (evaluation.result, evaluation.against):
        if result is not None:
            low, high = result.top1_interval
            table.add_row(
                Text(f"{result.model} {result.version}, {result.precision}"),
                str(result.pictures),
                f"{result.top1:.2%}",
                f"{low:.1%} to {high:.1%}",
                f"{result.top5:.2%}",
                f"{result.calibration_error:.4f}",
                f"{result.log_loss:.4f}",
            )
    out.print(table)
    classes = _table("class", "pictures", "accuracy", "precision")
    for each in evaluation.result.classes:
        if each.pictures:
            classes.add_row(Text(each.label), str(each.pictures), _percent(each.recall), _percent(each.precision))
    out.print(classes)
    pairs = _table("class", "taken for", "pictures")
    for pair in evaluation.result.worst_pairs:
        pairs.add_row(Text(pair.label), Text(pair.taken_for), str(pair.pictures))
    out.print(pairs)
    compared = evaluation.comparison
    if compared is not None:
        out.print(
            f"They agree on {compared.agreement:.2%}. Both right: {compared.both_right}, the model alone: "
            f"{compared.model_alone_right}, the other alone: {compared.against_alone_right}, neither: "
            f"{compared.neither_right}; McNemar p {compared.p_value:.3g}. Probabilities differ by "
            f"{compared.max_abs_probability_difference:.2g} at most.",
            highlight=False,
        )
    for name in evaluation.unknown_folders:
        console.print(Text(f"left out: folder {name} is no class of the model"), soft_wrap=True)
    for unclassified in evaluation.unclassified:
        console.print(Text(f"left out: {unclassified.path}: {unclassified.message}"), soft_wrap=True)


def _table(first: str, *others: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column(first)
    for heading in others:
        table.add_column(heading, justify="right")
    return table


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
