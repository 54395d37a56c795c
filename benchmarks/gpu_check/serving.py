"""The real service on the device, from JPEGs over HTTP to answers."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from sys import prefix

import onnx
from onnx import helper

from benchmarks.answers import wrong_answers
from benchmarks.bare import service_decode
from benchmarks.drive import measure
from benchmarks.gpu_check.records import ServiceRow
from benchmarks.gpu_check.subjects import LARGEST_BATCH, Subject
from benchmarks.load import body
from benchmarks.model import ModelFile
from benchmarks.pictures import write_pictures
from benchmarks.processes import adopt_orphans
from benchmarks.records import WARM_CLIENTS, Job, PictureSet
from benchmarks.servers import OURS, SERVERS, Server
from benchmarks.serving import running
from model_export.gates import ABSOLUTE_TOLERANCE, HALF_GATE
from service.artifact import METADATA_KEY, Artifact, ParityReport, ParityRow
from service.cpus import usable_cpus
from service.session import Session

WARM_SECONDS = 3


def load_service(
    subject: Subject, device: str, sizes: Sequence[int], clients: Sequence[int], seconds: float
) -> list[ServiceRow]:
    """Every size of JPEGs with every number of clients.

    Raises:
        RuntimeError: the service did not start; its log goes to standard error.
    """
    adopt_orphans()
    rows: list[ServiceRow] = []
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        served = _with_report(subject, Path(folder) / "model.onnx")
        sets = [_pictures(subject, size, Path(folder) / f"{size}") for size in sizes]
        sample = next(Path(sets[0].folder).iterdir()).read_bytes()
        server = _server(device, subject)
        with running(server, Path(prefix), ModelFile.read(served), usable_cpus(), sample) as started:
            for pictures in sets:
                bodies = started.scratch / f"bodies-{pictures.size}"
                bodies.mkdir()
                for number, name in enumerate(sorted(pictures.labels)):
                    (bodies / str(number)).write_bytes(body(server, (Path(pictures.folder) / name).read_bytes()))
                wrong = wrong_answers(started, pictures)
                job = Job(
                    server=OURS, environment=prefix, model=str(served), sets=sets, clients=list(clients),
                    seconds=seconds, warm_seconds=WARM_SECONDS, cores=usable_cpus(), round=0,
                )  # fmt: skip
                measure(started, job, pictures, bodies, WARM_CLIENTS, WARM_SECONDS)
                for count in clients:
                    row = measure(started, job, pictures, bodies, count, seconds)
                    rows.append(
                        ServiceRow(
                            model=subject.model,
                            precision=subject.precision,
                            size=pictures.size,
                            clients=count,
                            per_second=row.throughput,
                            p50_ms=row.p50_ms,
                            p99_ms=row.p99_ms,
                            mean_batch=row.mean_batch,
                            cores=row.server_cores,
                            errors=row.errors,
                            wrong=wrong,
                        )
                    )
    return rows


def _server(device: str, subject: Subject) -> Server:
    command = (*SERVERS[OURS].command, "--device", device)
    if subject.cuda_graphs:
        command += ("--cuda-graphs",)
    if device != "cpu":
        command += ("--max-batch", str(LARGEST_BATCH), "--max-queue", str(4 * LARGEST_BATCH))
    return replace(SERVERS[OURS], command=command)


def _pictures(subject: Subject, size: int, folder: Path) -> PictureSet:
    """JPEGs, and the labels that float32 on the CPU gives them."""
    write_pictures(folder, size, None)
    session = Session.open(subject.single, device="cpu", threads=1)
    labels = {}
    for file in sorted(folder.iterdir()):
        pixels = service_decode(file.read_bytes(), session.artifact.preprocessing)
        labels[file.name] = session.artifact.labels[int(session.run(pixels[None]).logits.argmax())]
    return PictureSet(size=size, folder=str(folder), labels=labels, floor=1e9)


def _with_report(subject: Subject, path: Path) -> Path:
    """The file as it is served: one that was made here has no report yet, and gets one with the export's gates.

    The bounds are what the service checks the device by; the rows say that nothing was compared with a checkpoint.
    """
    model = onnx.load(subject.path)
    text = next(entry.value for entry in model.metadata_props if entry.key == METADATA_KEY)
    artifact = Artifact.model_validate(json.loads(text))
    if artifact.parity is None:
        artifact = artifact.model_copy(update={"parity": _report(artifact)})
    helper.set_model_props(model, {METADATA_KEY: artifact.model_dump_json()})
    onnx.save(model, path)
    return path


def _report(artifact: Artifact) -> ParityReport:
    half = artifact.precision == "fp16"
    row = ParityRow(
        source="random pixels", batch_size=1, pictures=0, max_abs_logit_error=0, mean_abs_logit_error=0,
        max_abs_probability_error=0, top1_agreement=1, top5_agreement=1,
    )  # fmt: skip
    return ParityReport(
        reference="none", candidate="made for gpu-check", logit_range=0,
        max_abs_logit_error_allowed=None if half else ABSOLUTE_TOLERANCE,
        max_abs_probability_error_allowed=HALF_GATE.probability_error if half else ABSOLUTE_TOLERANCE,
        rows=(row,), passed=True,
    )  # fmt: skip
