"""How near to the arithmetic's limit the exported network runs, and what decoding costs: `make bench-model`."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import typer
from pydantic import BaseModel
from rich.table import Table

from benchmarks.decoding import DecodeRow, decode_table, measure_decoding
from benchmarks.graphs import (
    PRODUCT_OPERATIONS,
    SIZE,
    Case,
    exported,
    in_8_bits,
    operations,
    plainly_exported,
    product,
    random_network,
)
from benchmarks.rounds import median_ratio, milliseconds
from benchmarks.tables import new_table, print_tables, show
from model_export.variants import VARIANTS, Variant

PRODUCT, PLAIN, OURS, EIGHT_BITS = "large product", "PyTorch's export", "this project's", "this project's, int8"


class SpeedRow(BaseModel):
    """One file at one batch size, on one thread."""

    variant: str
    file: str
    batch: int
    ms: float
    """For one picture."""
    of_floor: float
    """Time over that of the network's operations at the rate of the large product."""
    of_plain: float
    """Time over that of PyTorch's export."""


class ModelReport(BaseModel):
    """All that was measured."""

    products_gflops: float
    speed: list[SpeedRow]
    decoding: list[DecodeRow]


def main(
    variants: Annotated[str, typer.Option(help="of T*, T, S, B")] = "T*,T,S,B",
    batches: Annotated[str, typer.Option(help="pictures in one run")] = "1,4",
    rounds: Annotated[int, typer.Option(min=1, help="of which the medians are taken")] = 11,
    decoding: Annotated[bool, typer.Option(help="measure decoding too")] = True,
    output: Annotated[Path, typer.Option(help="where the JSON goes")] = Path(".bench/model.json"),
) -> None:
    """Time the exported networks against PyTorch's export and a large matrix product, on one thread."""
    known = {variant.name.removeprefix("Strip-MLP-"): variant for variant in VARIANTS}
    if unknown := set(variants.split(",")) - known.keys():
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: not among {', '.join(known)}")
    sizes = [int(batch) for batch in batches.split(",")]
    rates: list[float] = []
    rows = [row for name in variants.split(",") for size in sizes for row in _measure(known[name], size, rounds, rates)]
    report = ModelReport(
        products_gflops=median(rates), speed=rows, decoding=measure_decoding(rounds) if decoding else []
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(report.model_dump_json(indent=1), "utf-8")
    print_tables(_speed_table(report.speed, report.products_gflops))
    if decoding:
        print_tables(decode_table(report.decoding))
    print(f"The figures: {output}")


def _measure(variant: Variant, batch: int, rounds: int, rates: list[float]) -> list[SpeedRow]:
    network = random_network(variant)
    graph = exported(network)
    floor_share = operations(network) * batch / PRODUCT_OPERATIONS
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (batch, SIZE, SIZE, 3), dtype=np.uint8)
    normalised = generator.normal(size=(batch, 3, SIZE, SIZE)).astype(np.float32)
    with tempfile.TemporaryDirectory(prefix="bench-model-") as folder:
        cases = {
            PRODUCT: product(),
            PLAIN: Case.open(str(plainly_exported(network, Path(folder) / "plain.onnx", batch)), normalised),
            OURS: Case.open(graph.SerializeToString(), pixels),
            EIGHT_BITS: Case.open(in_8_bits(graph).SerializeToString(), pixels),
        }
        works = {name: case.run for name, case in cases.items()}
        times = milliseconds(works, rounds, f"{variant.name}, batch {batch}")
    rates.append(PRODUCT_OPERATIONS / median(times[PRODUCT]) / 1e6)
    return [
        SpeedRow(
            variant=variant.name,
            file=name,
            batch=batch,
            ms=median(times[name]) / batch,
            of_floor=median_ratio(times[name], times[PRODUCT]) / floor_share,
            of_plain=median_ratio(times[name], times[PLAIN]),
        )
        for name in (PLAIN, OURS, EIGHT_BITS)
    ]


def _speed_table(rows: Sequence[SpeedRow], gflops: float) -> Table:
    table = new_table(
        f"One thread, random weights; a product of {gflops:.0f} GFLOP/s sets the floor",
        *("variant", "batch", "file", "ms/img", "of floor", "of PyTorch's export"),
    )
    for row in rows:
        table.add_row(row.variant, str(row.batch), row.file, *map(show, (row.ms, row.of_floor, row.of_plain)))
    return table


if __name__ == "__main__":
    typer.run(main)
