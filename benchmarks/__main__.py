"""Measure the service and other servers: `python -m benchmarks`, or `make bench`."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.environments import environment_of
from benchmarks.load import require_wrk
from benchmarks.run import Plan, Run, print_report
from benchmarks.servers import DEFAULT, OURS, SERVERS
from benchmarks.serving import REPOSITORY
from service.cpus import usable_cpus

BUNDLED = REPOSITORY / "weights" / "models" / "strip_mlp_nano_cifar10" / "1" / "model.onnx"


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - SERVERS.keys():
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: not among {', '.join(SERVERS)}")
    return names


def _numbers(text: str) -> list[int]:
    if not all(part.isdigit() and int(part) for part in text.split(",")):
        raise typer.BadParameter(f"{text}: whole numbers above 0 with commas between them are needed")
    return [int(part) for part in text.split(",")]


def main(
    servers: Annotated[str, typer.Option(help=f"of {', '.join(SERVERS)}")] = ",".join(DEFAULT),
    sizes: Annotated[str, typer.Option(help="long sides of the JPEGs, pixels")] = "32,224,500,4000",
    clients: Annotated[str, typer.Option(help="how many at a time")] = "1,8,32,128",
    seconds: Annotated[float, typer.Option(help="least duration of one load, rounded up")] = 3,
    warm: Annotated[float, typer.Option(help="seconds of load before each size; 0 for none")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="every second one goes through the servers backwards")] = 2,
    one_client: Annotated[float, typer.Option(help="seconds a size of the one-client latency; 0 for none")] = 4,
    model: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="ONNX file of the exporter")] = BUNDLED,
    photos: Annotated[Path | None, typer.Option(file_okay=False, exists=True, help="pictures, else drawn ones")] = None,
    output: Annotated[Path, typer.Option(help="where the JSON goes")] = Path(".bench/results.json"),
    home: Annotated[Path, typer.Option(help="where environments are made")] = Path(".bench"),
    peers: Annotated[Path | None, typer.Option(envvar="BENCH_PEERS", help="ready environments of the peers")] = None,
) -> None:
    """Measure the service and other servers on the same model, one after the other, and print tables."""
    require_wrk()
    plan = Plan(
        servers=_names(servers),
        sizes=_numbers(sizes),
        clients=_numbers(clients),
        seconds=seconds,
        warm_seconds=warm,
        rounds=rounds,
        one_client_seconds=one_client,
        cores=usable_cpus(),
    )
    environments = {name: environment_of(name, home, peers) for name in plan.servers}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        run = Run(plan, model.absolute(), environments, Path(folder))
        run.draw(photos)
        for number in range(1, rounds + 1):
            run.measure_round(number)
        if OURS in plan.servers and one_client:
            run.measure_one_client()
        report = run.report()
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(report.model_dump_json(indent=1), "utf-8")
    print_report(report)
    print(f"The figures of every round: {output}")
    wrong = sum(row.wrong for row in report.rounds)
    if report.failed or wrong:
        print(f"Not measured: {', '.join(report.failed) or 'none'}. Wrong answers: {wrong}.")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
