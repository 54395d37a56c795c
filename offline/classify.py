"""The command `strip-mlp-classify`: pictures from files and folders to a table of their best classes."""

import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, NoReturn

import orjson
import typer
from pydantic import ValidationError
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from offline.errors import OfflineError
from offline.listing import STANDARD_INPUT
from offline.model import open_model
from offline.outputs import Before, open_output, record_of
from offline.progress import console, shown_progress
from offline.remote import Service
from offline.rows import Row, row_of
from offline.scoring import score
from offline.sources import Source, is_parquet, source_of
from offline.stopping import stopping
from service.body import MEBIBYTE
from service.query import ClassifyQuery
from service.settings import Settings

main = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

A_FEW = 20
"""Most pictures that a terminal shows as a table."""


@main.command()
def classify_command(
    paths: Annotated[
        list[str],
        typer.Argument(
            help="Files, folders (all pictures in them), patterns, or - for a list on standard input. Or one URL of a "
            "folder in an object store, or one .parquet file or folder with columns path and bytes."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="Name, name:version, or ONNX file.  [default: the only one, or STRIPMLP_DEFAULT_MODEL]"),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="How many classes of each picture.")] = 5,
    output: Annotated[
        str | None,
        typer.Option(
            help="A .csv, .jsonl or .parquet file; with --ray a folder, or its URL.  [default: a table on a terminal, "
            "else JSON lines]"
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Add to the output what it does not hold yet.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output if it is there.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="End with 1 if a picture cannot be classified.")] = False,
    null: Annotated[bool, typer.Option("--null", "-0", help="The list on standard input ends names with NUL.")] = False,
    url: Annotated[str | None, typer.Option(help="Send the pictures to a running service instead.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time, with --url.")] = 16,
    tries: Annotated[int, typer.Option(min=1, help="Of each request, with --url.")] = 10,
    ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="Work on the Ray cluster that RAY_ADDRESS names, else on a new one on this machine.",
        ),
    ] = False,
    models: Annotated[Path | None, typer.Option(help="Model repository.  [default: STRIPMLP_MODELS]")] = None,
    device: Annotated[str | None, typer.Option(help="As of strip-mlp-serve.  [default: STRIPMLP_DEVICE]")] = None,
) -> None:
    """Classify pictures without a service, or by one.

    Everything else (threads, limits, exact decoding) is taken from the service's STRIPMLP_ variables. Ends with 0, also
    if pictures could not be classified, which are rows with an error; with 1 if something else is wrong.
    """
    counted: Counter[str] = Counter()
    try:
        settings = settings_of(models, device)
        if ray:
            if url is not None:
                fail(OfflineError("--ray goes not with --url"))
            _end(_on_ray(paths, output, model, top_k, settings, resume=resume, overwrite=overwrite), 0, strict=strict)
        file = None if output is None else Path(output)
        _require_agreement(file, resume=resume, overwrite=overwrite)
        with stopping() as stop, ExitStack() as opened:
            classify = opened.enter_context(_classifier(url, model, top_k, concurrency, tries, settings))
            sink, before = None, Before()
            if file is not None:
                sink, before = open_output(file, top_k, resume=resume)
                opened.enter_context(sink)
            source = source_of(paths, settings.max_image_mb * MEBIBYTE, null=null)
            to_do = replace(source, pictures=(each for each in source.pictures if each.name not in before.done))
            rows = opened.enter_context(closing(classify(to_do)))
            total = partial(_count, paths, source, before)
            seen = _counted(shown_progress(stop.before_end(rows), "classifying", total), before, counted)
            if sink is None:
                _print(seen)
            else:
                for row in seen:
                    sink.write(row)
    except OfflineError as error:
        fail(error)
    _end(counted, stop.status, strict=strict)


def _on_ray(
    paths: Sequence[str],
    output: str | None,
    model: str | None,
    top_k: int,
    settings: Settings,
    *,
    resume: bool,
    overwrite: bool,
) -> Counter[str]:
    if output is None or STANDARD_INPUT in paths:
        raise OfflineError("--ray needs an --output, and takes no list on standard input")
    if resume and overwrite:
        raise OfflineError("--resume goes not with --overwrite")
    try:
        from offline.spread import Job, classify_on_ray
    except ImportError as error:
        raise OfflineError("--ray needs Ray; install the 'ray' extra") from error
    return classify_on_ray(paths, output, Job(model, settings, top_k), resume=resume, overwrite=overwrite)


def _end(counted: Counter[str], status: int, *, strict: bool) -> NoReturn:
    """Tell what became of the pictures, and end."""
    failed = {code: number for code, number in counted.items() if code}
    tail = "".join(f", {number} {code}" for code, number in sorted(failed.items()))
    console.print(f"{counted['']} classified{tail}", highlight=False, soft_wrap=True)
    raise typer.Exit(status or (1 if strict and failed else 0))


def _require_agreement(output: Path | None, *, resume: bool, overwrite: bool) -> None:
    if resume and (output is None or overwrite):
        raise OfflineError("--resume needs an --output, and goes not with --overwrite")
    if output is not None and output.exists() and not (resume or overwrite):
        raise OfflineError(f"{output} is there already; give --resume to add to it or --overwrite to replace it")


def settings_of(models: Path | None, device: str | None) -> Settings:
    """The service's settings from its environment variables, and these. Raises OfflineError for a wrong one."""
    given: dict[str, Any] = {"models": models, "device": device}
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = "".join(f"setting {part}: " for part in first["loc"])
        raise OfflineError(f"{name}{first['msg'].removeprefix('Value error, ')}") from error


def fail(error: OfflineError) -> NoReturn:
    """Tell of an error in a line, and end with 1."""
    console.print(Text.assemble(("error: ", "red"), " ".join(str(error).splitlines())), soft_wrap=True)
    raise typer.Exit(1)


@contextmanager
def _classifier(
    url: str | None, model: str | None, top_k: int, concurrency: int, tries: int, settings: Settings
) -> Iterator[Callable[[Source], Generator[Row]]]:
    """What makes rows of pictures."""
    if url is None:
        opened = open_model(model, settings)
        yield lambda source: (row_of(scored.name, scored.result, opened, top_k) for scored in score(opened, source))
        return
    name, _, version = (model or "").partition(":")
    try:
        query = ClassifyQuery.model_validate({"model": name or None, "version": version or None, "top_k": top_k})
    except ValidationError as error:
        raise OfflineError(f"--model is '{model}', but has to be a name, or name:version") from error
    with Service(url, query, concurrency, tries) as service:
        yield service.classify


def _count(paths: Sequence[str], source: Source, before: Before) -> int | None:
    """How many pictures there are to do, unless they come on standard input, or would have to be read for it."""
    if STANDARD_INPUT in paths or is_parquet(paths):
        return None
    listed = source.pictures if isinstance(source.pictures, Sequence) else source_of(paths, 0).pictures
    return sum(picture.name not in before.done for picture in listed)


def _counted(rows: Iterable[Row], before: Before, counted: Counter[str]) -> Iterator[Row]:
    """The same again, counted by error, none being ''."""
    for row in rows:
        before.require_same(row)
        counted["" if row.error is None else row.error.code] += 1
        yield row


def _print(rows: Iterable[Row]) -> None:
    """On standard output: a table if it is a terminal and they are few, else JSON lines."""
    rows = iter(rows)
    terminal = Console()
    few = list(islice(rows, A_FEW + 1)) if terminal.is_terminal else []
    if 0 < len(few) <= A_FEW:
        terminal.print(_table(few))
        return
    for row in chain(few, rows):
        sys.stdout.buffer.write(orjson.dumps(record_of(row), option=orjson.OPT_APPEND_NEWLINE))
        sys.stdout.buffer.flush()


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("picture", overflow="fold")
    table.add_column("best classes")
    for row in rows:
        said = Text(", ".join(f"{each.label} {each.probability:.1%}" for each in row.predictions))
        if row.error is not None:
            said = Text(row.error.message, "red")
        table.add_row(Text(row.path), said)
    return table
