"""What is measured, as it is handed between processes and written to the JSON file."""

from typing import Final

from pydantic import BaseModel

WARM_CLIENTS: Final = 32
"""Clients of the load that comes before the measured ones of a size."""


class PictureSet(BaseModel):
    """The JPEGs of one size, their right answers, and how long a load of them must last."""

    size: int
    folder: str
    labels: dict[str, str]
    """The picture's file name -> the label that the bare session gives it."""
    floor: float
    """Pictures per second that are possible; sets the least duration of a load."""


class Job(BaseModel):
    """What `drive` does with one server in one round."""

    server: str
    environment: str
    """Folder of the virtual environment that the server runs in."""
    model: str
    sets: list[PictureSet]
    clients: list[int]
    seconds: float
    warm_seconds: float
    cores: int
    round: int


class Load(BaseModel):
    """What the load generator saw. Latencies in milliseconds, of every answer that came in time."""

    requests: int
    """Answered with a status below 400."""
    errors: int
    """Other statuses, broken connections, and answers later than `load.TIMEOUT`."""
    seconds: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    load_cpu_seconds: float


class Row(BaseModel):
    """One server under one load: a line of the table."""

    server: str
    size: int
    clients: int
    round: int
    rounds: int = 1
    requests: int
    errors: int
    wrong: int
    """Answers with another top-1 than the bare session's, of those asked before the load; at most one a picture."""
    throughput: float
    """Pictures answered per second."""
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    mean_batch: float | None
    """Pictures per run of the model; only the service itself tells."""
    cpu_ms: float
    """CPU time of the server's whole process tree per answered picture."""
    server_cores: float
    load_cores: float
    other_cores: float
    """Cores that neither the server nor the load used; much of it, and the line is not fit for comparison."""
    rss_mib: float
    """Highest sum of resident memory over the process tree; a page shared by two processes counts twice."""
    pss_mib: float
    """The same after the load, a shared page counted once."""
    ready_seconds: float
    """From the start of the server to its first good answer."""


class SessionRate(BaseModel):
    """The bare session with so many threads at one batch size."""

    threads: int
    batch: int
    throughput: float
    """Pictures per second of wall time."""
    cpu_ms: float
    """CPU time per picture."""


class DecodeCost(BaseModel):
    """CPU milliseconds from the bytes of one JPEG to the network's pixels, in one thread."""

    size: int
    plain_ms: float
    """With the code that the peers use."""
    service_ms: float
    """With the service's own."""


class Bare(BaseModel):
    """What no server can be faster than, measured in one process without a server."""

    sessions: list[SessionRate]
    decodes: list[DecodeCost]
    plain_labels: dict[int, dict[str, str]]
    """Size -> picture -> top-1 of the session, pictures decoded by the peers' code."""
    service_labels: dict[int, dict[str, str]]


class OneClient(BaseModel):
    """One client after the other: medians in milliseconds, requests and direct calls in turns."""

    size: int
    pictures: int
    direct_one_thread_ms: float
    direct_all_threads_ms: float
    service_ms: float

    @property
    def overhead_ms(self) -> float:
        """The service's time beyond the faster of the direct ways."""
        return self.service_ms - min(self.direct_one_thread_ms, self.direct_all_threads_ms)
