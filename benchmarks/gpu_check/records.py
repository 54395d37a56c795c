"""What is measured, as it is printed and written to the JSON file."""

from typing import Literal

from pydantic import BaseModel

Precision = Literal["fp32", "tf32", "fp16"]
"""tf32 is the fp32 file with `--tf32`."""


class Nodes(BaseModel):
    """All nodes of one operator on one provider, in one run."""

    provider: str
    operator: str
    count: int
    milliseconds: float
    """On a GPU the time to launch them, not to run them."""
    largest_bytes: int
    """Of what one of them writes."""


class ProviderRow(BaseModel):
    """Where one model's nodes run."""

    model: str
    precision: Precision
    expected: str
    """The provider that was asked for."""
    nodes: list[Nodes]
    strays: list[str]
    """Operators that handle activations on the CPU, where a GPU was asked for."""


class ParityCheck(BaseModel):
    """One model on the device against float32 on the CPU, at one batch size."""

    model: str
    precision: Precision
    batch: int
    pictures: int
    logit_range: float
    max_abs_logit_error: float
    max_abs_probability_error: float
    top1_agreement: float
    passed: bool


class SpeedRow(BaseModel):
    """One model at one batch size: from pixels in ordinary memory to answers there."""

    model: str
    precision: Precision
    batch: int
    p50_ms: float
    p95_ms: float
    per_second: float
    """Pictures."""
    teraflops: float
    of_product: float
    """Share of the rate of a large matrix product in the same precision."""
    of_copy: float
    """Share of the memory's rate, were every operator's result written and read once."""
    product_teraflops: float
    """Measured between the runs of this model."""
    copy_gigabytes: float
    """A second, read and written, measured likewise."""


class MemoryRow(BaseModel):
    """Memory over many runs of random batch sizes, MiB."""

    model: str
    precision: Precision
    requests: int
    device_first: float | None
    device_last: float | None
    device_peak: float | None
    """None: NVML does not tell."""
    host_first: float
    host_last: float
    host_peak: float
    flat: bool


class ServiceRow(BaseModel):
    """The real service under a closed loop of clients that send JPEGs."""

    model: str
    precision: Precision
    size: int
    """Long side of the JPEGs."""
    clients: int
    per_second: float
    p50_ms: float | None
    p99_ms: float | None
    mean_batch: float | None
    cores: float
    """That the service used."""
    errors: int
    wrong: int


class Report(BaseModel):
    """All that was measured, and what was not."""

    started: str
    device: str
    cuda_graphs: bool
    gpu: str
    """Its name, by NVML."""
    versions: dict[str, str]
    providers: list[ProviderRow] = []
    parity: list[ParityCheck] = []
    speed: list[SpeedRow] = []
    memory: list[MemoryRow] = []
    service: list[ServiceRow] = []
    not_run: list[str] = []
    """What had to be left out, and why."""
    failed: list[str] = []
    """What raised an exception."""

    @property
    def faults(self) -> list[str]:
        """What is not as it should be. TF32, which is off by default, may be further off than float32 may."""
        return [
            *self.failed,
            *(f"{row.model} {row.precision}: {', '.join(row.strays)} not on {row.expected}"
              for row in self.providers if row.strays),
            *(f"{row.model} {row.precision}, batch {row.batch}: answers are too far from the CPU's"
              for row in self.parity if not row.passed and row.precision != "tf32"),
            *(f"{row.model} {row.precision}: memory grows" for row in self.memory if not row.flat),
            *(f"{row.model} {row.precision}, {row.clients} clients: {row.errors} errors, {row.wrong} wrong answers"
              for row in self.service if row.errors or row.wrong),
        ]  # fmt: skip
