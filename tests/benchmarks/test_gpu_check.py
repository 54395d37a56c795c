"""The check of GPUs, run on the CPU at small sizes."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from benchmarks.gpu_check import memory, parity, provider, run
from benchmarks.gpu_check.__main__ import main
from benchmarks.gpu_check.records import MemoryRow, Nodes, ParityCheck, ProviderRow, Report, ServiceRow
from benchmarks.gpu_check.run import Check, Plan
from benchmarks.gpu_check.subjects import Subject
from service.providers import CPU, CUDA
from service.session import Scores, Session
from tests.conftest import REPOSITORY
from tests.service import colours
from tests.service.seeming_cuda import SeemingCuda


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    path = colours.save_served(tmp_path)
    return Subject("colours", "fp32", path, path, cuda_graphs=False)


def test_the_bundled_model_is_checked_in_one_command(tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "benchmarks.gpu_check", "--device", "cpu", "--variants", ""),
        *("--parts", "provider,parity,speed,memory", "--precisions", "fp32,fp16", "--batches", "1,2", "--rounds", "2"),
        *("--requests", "20", "--largest", "4", "--output", str(tmp_path / "a" / "report.json")),
    ]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    report = Report.model_validate_json((tmp_path / "a" / "report.json").read_text("utf-8"))
    assert not report.faults
    both = [("strip_mlp_nano_cifar10", "fp32"), ("strip_mlp_nano_cifar10", "fp16")]
    assert [(row.model, row.precision) for row in report.providers] == both
    assert [(row.model, row.precision) for row in report.memory] == both
    assert [row.batch for row in report.speed] == [1, 2, 1, 2]
    assert all(row.provider == CPU for each in report.providers for row in each.nodes)
    assert {"Conv", "MatMul"} & {row.operator for row in report.providers[0].nodes}
    single, half = report.parity[0], report.parity[-1]
    assert single.max_abs_logit_error < 1e-4 < half.max_abs_logit_error
    assert all(0 < row.of_product < 1 and row.p50_ms <= row.p95_ms for row in report.speed)
    assert "strip_mlp_nano_cifar10" in done.stdout


def test_what_cannot_be_run_is_said_and_the_exit_status_tells(
    tmp_path: Path, subject: Subject, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main("cpu", "parity", str(subject.path), "", "fp32,tf32", output=tmp_path / "report.json")

    assert end.value.code == 3
    assert "not run: tf32: the CPU has none" in capsys.readouterr().out


def test_a_fault_shows_in_the_exit_status(
    tmp_path: Path, subject: Subject, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Report, "faults", ["the fan rattles"])

    with pytest.raises(SystemExit) as end:
        main("cpu", "parity", str(subject.path), "", "fp32,tf32", output=tmp_path / "report.json")

    assert end.value.code == 1
    assert "fault: the fan rattles" in capsys.readouterr().out


def test_a_device_that_is_not_there_ends_it_with_advice(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="gpu-check: --device tensorrt:9 was asked for"):
        main("tensorrt:9", variants="", output=tmp_path / "report.json")


@pytest.mark.parametrize("option", ["parts", "precisions"])
def test_unknown_names_are_refused(tmp_path: Path, option: str) -> None:
    names: dict[str, Any] = {option: "fp64"}

    with pytest.raises(typer.BadParameter, match=f"--{option}: fp64: not among "):
        main("cpu", variants="", output=tmp_path / "report.json", **names)


def plan(**changes: Any) -> Plan:
    usual: dict[str, Any] = {
        "device": "cpu", "parts": ["parity", "service"], "cuda_graphs": False, "batches": [1], "rounds": 2,
        "requests": 1, "largest": 1, "sizes": [32], "clients": [1], "seconds": 1,
    }  # fmt: skip
    return Plan(**usual | changes)


def test_a_part_whose_packages_or_tools_are_missing_is_not_run_and_the_others_are(
    tmp_path: Path, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "SERVICE_NEEDS", ("numpy", "no_such_package"))
    monkeypatch.setattr("shutil.which", lambda _: None)
    check = Check(plan(), tmp_path / "report.json")
    check.collect([subject.path], [], ["fp32"], tmp_path)
    check.run()

    assert check.report.not_run == ["service: no_such_package, wrk missing"]
    assert len(check.report.parity) == 3
    assert not check.report.faults


def test_torch_and_packaging_are_needed_for_nothing_but_variants_and_fp16() -> None:
    code = "import sys, benchmarks.gpu_check.__main__; print({'torch', 'packaging'} & sys.modules.keys() or 'neither')"

    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True, text=True)

    assert done.stdout == "neither\n"


def test_variants_are_left_out_without_torch(tmp_path: Path, subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torch" else found(name))
    check = Check(plan(), tmp_path / "report.json")

    check.collect([subject.path], ["T*", "S"], ["fp32"], tmp_path)

    assert check.report.not_run == ["T*, S: torch missing"]


def test_fp16_is_left_out_without_packaging(tmp_path: Path, subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "packaging" else found(name))
    check = Check(plan(), tmp_path / "report.json")

    check.collect([subject.path], [], ["fp32", "fp16"], tmp_path)

    assert check.report.not_run == ["fp16: packaging missing"]
    assert [each.precision for each in check._subjects] == ["fp32"]


def test_what_raises_is_a_fault_and_the_rest_goes_on(
    tmp_path: Path, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(run, "check_parity", fail)
    check = Check(plan(parts=["parity", "provider"]), tmp_path / "report.json")
    check.collect([subject.path], [], ["fp32"], tmp_path)
    check.run()

    assert check.report.faults == ["parity, colours fp32: out of memory"]
    assert len(json.loads((tmp_path / "report.json").read_text("utf-8"))["providers"]) == 1


def test_every_kind_of_fault_is_named() -> None:
    nodes = [Nodes(provider=CPU, operator="Conv", count=1, milliseconds=1, largest_bytes=5000)]
    report = Report(
        started="", device="cuda", cuda_graphs=False, gpu="", versions={},
        providers=[ProviderRow(model="m", precision="fp32", expected=CUDA, nodes=nodes, strays=["Conv"])],
        parity=[
            ParityCheck(
                model="m", precision="fp16", batch=4, pictures=1, logit_range=1, max_abs_logit_error=1,
                max_abs_probability_error=1, top1_agreement=0, passed=False,
            )
        ],
        memory=[
            MemoryRow(
                model="m", precision="fp32", requests=1, device_first=1, device_last=99, device_peak=99,
                host_first=1, host_last=1, host_peak=1, flat=False,
            )
        ],
        service=[
            ServiceRow(
                model="m", precision="fp32", size=32, clients=8, per_second=1, p50_ms=1, p99_ms=1, mean_batch=1,
                cores=1, errors=2, wrong=3,
            )
        ],
        failed=["speed, m fp32: out of memory"],
    )  # fmt: skip

    assert report.faults == [
        "speed, m fp32: out of memory",
        "m fp32: Conv not on CUDAExecutionProvider",
        "m fp16, batch 4: answers are too far from the CPU's",
        "m fp32: memory grows",
        "m fp32, 8 clients: 2 errors, 3 wrong answers",
    ]


def test_tf32_may_be_further_off_than_float32_may(subject: Subject) -> None:
    (row,) = parity.check_parity(subject, "cpu", (1,))
    off = row.model_copy(update={"precision": "tf32", "passed": False})

    assert not Report(started="", device="cuda", cuda_graphs=False, gpu="", versions={}, parity=[row, off]).faults


def test_nodes_that_handle_activations_elsewhere_are_strays(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that fell back to the CPU as a whole; what handles shapes alone may be there."""
    monkeypatch.setattr(provider, "expected_provider", lambda _: CUDA)
    monkeypatch.setattr(provider, "providers_of", lambda *_: [CPU])

    row = provider.check_provider(subject, "cuda")

    assert "Cast" in row.strays
    assert "Min" in {nodes.operator for nodes in row.nodes}
    assert "Min" not in row.strays


@pytest.mark.parametrize(("on", "switch"), [(False, "0"), (True, "1")])
def test_cuda_graphs_are_on_everywhere_but_in_the_profile(
    tmp_path: Path, subject: Subject, monkeypatch: pytest.MonkeyPatch, on: bool, switch: str
) -> None:
    seeming_cuda = SeemingCuda(monkeypatch)
    check = Check(plan(device="cuda", parts=["provider", "parity", "memory"], cuda_graphs=on), tmp_path / "report.json")

    check.collect([subject.path], [], ["fp32"], tmp_path)
    check.run()

    of_models = [first for (first, *_) in seeming_cuda.asked if first[0] == CUDA]
    assert [options["enable_cuda_graph"] for _, options in of_models] == ["0", switch, switch]
    assert check.report.cuda_graphs is on


@pytest.mark.parametrize("off", [(2e-3, 0), (0, 2e-3), (np.nan, 0), (0, np.nan)])
def test_answers_that_are_off_do_not_pass(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, off: tuple[float, float]
) -> None:
    right = Session.run

    def wrong(session: Session, pixels: Any) -> Scores:
        scores = right(session, pixels)
        logits, probabilities = off if len(pixels) == 4 else (0, 0)
        return Scores(scores.logits + logits, scores.probabilities + probabilities)

    monkeypatch.setattr(Session, "run", wrong)

    assert [row.passed for row in parity.check_parity(subject, "cpu", (1, 4))] == [True, False]


def test_memory_that_grows_is_not_flat(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    used = iter(range(0, 1000 * 2**20, 2**20))
    monkeypatch.setattr(memory, "device_memory", lambda _: lambda: next(used))

    assert memory.watch_memory(subject, "cpu", 10, 2).flat
    assert not memory.watch_memory(subject, "cpu", 50, 2).flat
