"""The options of `python -m benchmarks.gpu_check`, and its end."""

import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, get_args

import typer

from benchmarks.gpu_check.records import Precision
from benchmarks.gpu_check.run import PARTS, Check, Plan
from benchmarks.gpu_check.subjects import LARGEST_BATCH
from benchmarks.gpu_check.tables import print_report
from service.errors import DeviceUnavailable
from service.providers import expected_provider

BUNDLED = Path(__file__).parents[2] / "weights/models/strip_mlp_nano_cifar10/1/model.onnx"

FAULTY, INCOMPLETE = 1, 3
"""Exit statuses: something is wrong; nothing is, but not everything that was asked for could be run."""


def main(
    device: Annotated[str, typer.Option(help="cuda, cuda:N, tensorrt, tensorrt:N or cpu")] = "cuda",
    parts: Annotated[str, typer.Option(help="which, with commas between them")] = ",".join(PARTS),
    models: Annotated[str, typer.Option(help="float32 files of the exporter; may be empty")] = str(BUNDLED),
    variants: Annotated[str, typer.Option(help="with random weights, which takes torch; may be empty")] = "T*,T,S,B",
    precisions: Annotated[str, typer.Option(help="which; tf32 is float32 with --tf32")] = "fp32,tf32,fp16",
    cuda_graphs: Annotated[bool, typer.Option(help="as the service's --cuda-graphs")] = False,
    batches: Annotated[str, typer.Option(help="pictures in one run")] = "1,2,4,8,16,32,64,128,256",
    rounds: Annotated[int, typer.Option(min=2, help="of which speed is the median")] = 20,
    requests: Annotated[int, typer.Option(min=1, help="runs over which memory is watched")] = 10_000,
    largest: Annotated[int, typer.Option(min=1, max=LARGEST_BATCH, help="batch of these runs")] = 32,
    sizes: Annotated[str, typer.Option(help="long sides of the service's JPEGs, pixels")] = "224,500",
    clients: Annotated[str, typer.Option(help="of the service")] = "1,32,128",
    seconds: Annotated[float, typer.Option(min=1, help="of each load of the service")] = 5,
    output: Annotated[Path, typer.Option(help="where the JSON goes")] = Path(".bench/gpu-check.json"),
) -> None:
    """Check models on a GPU: where nodes run, parity, speed against the card's limits, memory, the service.

    Ends with 1 if something is wrong, else with 3 if something could not be run.
    """
    plan = Plan(
        device=device,
        parts=_chosen(parts, PARTS, "--parts"),
        cuda_graphs=cuda_graphs,
        batches=[int(each) for each in batches.split(",")],
        rounds=rounds,
        requests=requests,
        largest=largest,
        sizes=[int(each) for each in sizes.split(",")],
        clients=[int(each) for each in clients.split(",")],
        seconds=seconds,
    )
    try:
        expected_provider(device)
    except DeviceUnavailable as error:
        raise SystemExit(f"gpu-check: {error}") from error
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        check = Check(plan, output)
        check.collect(
            files=[Path(each) for each in models.split(",") if each],
            variants=[each for each in variants.split(",") if each],
            precisions=_chosen(precisions, get_args(Precision), "--precisions"),
            folder=Path(folder),
        )
        check.run()
    print_report(check.report)
    print(f"The figures: {output}")
    if check.report.faults:
        raise SystemExit(FAULTY)
    if check.report.not_run:
        raise SystemExit(INCOMPLETE)


def _chosen(text: str, known: Collection[str], option: str) -> list[str]:
    chosen = text.split(",")
    if unknown := set(chosen) - set(known):
        raise typer.BadParameter(f"{option}: {', '.join(sorted(unknown))}: not among {', '.join(known)}")
    return chosen


if __name__ == "__main__":
    typer.run(main)
