"""The command line: `strip-mlp-export`, also `python -m model_export`."""

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from model_export.errors import ExportError, ParityFailed
from model_export.export import IMAGENET_MEAN, IMAGENET_STD, Exported, ExportOptions, export
from model_export.labels import KNOWN
from service.artifact import Interpolation, ParityReport, Precision

main = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

# Standard output is left to --json, so that it can be piped.
console = Console(stderr=True)


@main.command()
def export_command(
    checkpoint: Annotated[Path, typer.Argument(help="Training checkpoint, state dict or safetensors file.")],
    name: Annotated[str | None, typer.Option(help="Model name.  [default: the checkpoint's, or its file's]")] = None,
    version: Annotated[int | None, typer.Option(min=1, help="Model version.  [default: the next one]")] = None,
    labels: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(KNOWN)}, a text file with a label a line, or an ImageFolder directory."),
    ] = None,
    output: Annotated[Path, typer.Option(help="Model repository to write to.")] = Path("weights/models"),
    crop: Annotated[
        bool | None,
        typer.Option("--crop/--no-crop", help="Resize and crop, or resize to the square.  [default: as trained]"),
    ] = None,
    interpolation: Annotated[
        Interpolation | None, typer.Option(help="Of the resize.  [default: as trained, else bicubic]")
    ] = None,
    mean: Annotated[tuple[float, float, float], typer.Option(help="Of pixels in 0 to 1.")] = IMAGENET_MEAN,
    std: Annotated[tuple[float, float, float], typer.Option(help="Of pixels in 0 to 1.")] = IMAGENET_STD,
    pictures: Annotated[
        Path | None, typer.Option(help="Directory of pictures to add to the parity check's own.")
    ] = None,
    precision: Annotated[
        Precision, typer.Option(help="fp16 is for CUDA, int8 for CPUs with VNNI; both get names of their own.")
    ] = "fp32",
    calibration: Annotated[
        Path | None, typer.Option(help="Directory of pictures for int8, flat or with a folder a class.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON on standard output.")] = False,
) -> None:
    """Export a Strip-MLP checkpoint to a self-describing ONNX model and prove that nothing was lost."""
    # Ends as an interrupt does, so that nothing half-written is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    options = ExportOptions(
        checkpoint, output, name, version, labels, crop, interpolation, mean, std, pictures, precision, calibration
    )
    try:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            exported = export(options, progress)
    except ParityFailed as error:
        _print_report(error.report, None, as_json=as_json)
        _fail(error)
    except ExportError as error:
        _fail(error)
    else:
        assert exported.artifact.parity is not None  # a written model has one
        _print_report(exported.artifact.parity, exported, as_json=as_json)


def _fail(error: ExportError) -> None:
    console.print(Text.assemble(("error: ", "red"), str(error)), soft_wrap=True)
    raise typer.Exit(1)


def _print_report(report: ParityReport, exported: Exported | None, *, as_json: bool) -> None:
    if as_json:
        # Pydantic writes numbers that JSON has not, such as an infinite error, as null.
        document = {"model": str(exported.path) if exported else None, "parity": json.loads(report.model_dump_json())}
        typer.echo(json.dumps(document, indent=2))
        return
    # Narrow enough for a terminal of 80 columns.
    table = Table(
        title="Exported file against checkpoint (p: probability)",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("pictures", no_wrap=True)
    for heading in ("batch", "max |Δlogit|", "mean |Δlogit|", "max |Δp|", "top-1", "top-5"):
        table.add_column(heading, justify="right")
    for row in report.rows:
        table.add_row(
            f"{row.pictures} {row.source}",
            str(row.batch_size),
            f"{row.max_abs_logit_error:.2e}",
            f"{row.mean_abs_logit_error:.2e}",
            f"{row.max_abs_probability_error:.2e}",
            f"{row.top1_agreement:.1%}",
            f"{row.top5_agreement:.1%}",
        )
    console.print(table)
    for line in _explained(report):
        console.print(line, highlight=False, soft_wrap=True)
    if exported:
        console.print(Text(f"Written: {exported.path}"), soft_wrap=True)


def _explained(report: ParityReport) -> Iterator[str]:
    """Lines below the table: which pictures, what they showed beyond it, and what was allowed."""
    if report.pictures is not None:
        yield f"Pictures: {report.pictures}"
    if report.accuracy is not None:
        accuracy = report.accuracy
        yield (
            f"Accuracy on the {accuracy.pictures} of known class: {accuracy.candidate:.2%}, "
            f"in float32 {accuracy.reference:.2%}"
        )
    allowed = []
    if report.max_abs_logit_error_allowed is not None:
        allowed.append(f"max |Δlogit| {report.max_abs_logit_error_allowed:.2e} (logits span {report.logit_range:.3g})")
    elif report.max_abs_probability_error_allowed is not None:
        allowed.append(f"max |Δp| {report.max_abs_probability_error_allowed:.2e}")
    allowed.append(f"top-1 {100 * report.top1_agreement_required:g} %")
    if report.accuracy_loss_allowed is not None:
        allowed.append(f"accuracy {100 * report.accuracy_loss_allowed:g} points lower")
    yield f"Allowed: {', '.join(allowed)}"
