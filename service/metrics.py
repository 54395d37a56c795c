"""Prometheus metrics: where requests, pictures and time go."""

from asyncio import CancelledError
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

from service.errors import Outcome, ServiceError

SECONDS = tuple(0.00025 * 2**power for power in range(18))
"""Geometric, 0.25 ms to 33 s."""

BATCH_SIZES = tuple(float(2**power) for power in range(10))


class Metrics:
    """One set of metrics in a registry of its own, so that several services can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.requests = Counter(
            "stripmlp_requests", "HTTP requests answered.", ["endpoint", "code"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "stripmlp_request_duration_seconds",
            "Time from a request's headers to the end of its answer.",
            ["endpoint"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.images = Counter(
            "stripmlp_images",
            "Pictures received, by what became of them: each exactly once. A request that ended before its body was "
            "read counts as one picture.",
            ["model", "version", "outcome"],
            registry=self.registry,
        )
        self.stage_seconds = Histogram(
            "stripmlp_stage_duration_seconds",
            "Time in each stage: read and encode per request, decode and queue per picture, infer per batch.",
            ["model", "stage"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "stripmlp_batch_size",
            "Pictures in one run of a model, without padding.",
            ["model"],
            buckets=BATCH_SIZES,
            registry=self.registry,
        )
        self.padding_images = Counter(
            "stripmlp_padding_images",
            "Blank pictures that filled batches up to a size that was warmed.",
            ["model"],
            registry=self.registry,
        )
        self.queue_images = Gauge(
            "stripmlp_queue_images",
            "Pictures in work or waiting, over all versions.",
            ["model"],
            registry=self.registry,
        )
        self.queue_limit = Gauge(
            "stripmlp_queue_limit",
            "Most pictures in work or waiting, over all versions; beyond them requests are refused.",
            ["model"],
            registry=self.registry,
        )
        self.body_bytes = Gauge("stripmlp_body_bytes", "Bytes of request bodies that are held.", registry=self.registry)
        self.in_flight_requests = Gauge(
            "stripmlp_in_flight_requests", "Requests being answered.", registry=self.registry
        )
        self.model_info = Gauge(
            "stripmlp_model_info",
            "Constant 1; the labels say what is served and which execution provider runs it.",
            ["model", "version", "provider", "precision", "checkpoint_sha256"],
            registry=self.registry,
        )
        self.model_parity_error = Gauge(
            "stripmlp_model_parity_max_abs_error",
            "Largest logit error that the export's parity check found.",
            ["model", "version"],
            registry=self.registry,
        )
        self.model_load_failed = Gauge(
            "stripmlp_model_load_failed",
            "Constant 1 for each version in the repository that should be served but could not be loaded.",
            ["model", "version"],
            registry=self.registry,
        )

    def of_model(self, name: str, version: int) -> "ModelMetrics":
        """The series of one version of a model."""
        return ModelMetrics(self, name, str(version))


class ModelMetrics:
    """One version's series, looked up once: on the way of every picture the look-up would cost more than counting."""

    def __init__(self, metrics: Metrics, name: str, version: str) -> None:
        stage = metrics.stage_seconds
        self.read_seconds = stage.labels(name, "read")
        self.decode_seconds = stage.labels(name, "decode")
        self.queue_seconds = stage.labels(name, "queue")
        self.infer_seconds = stage.labels(name, "infer")
        self.encode_seconds = stage.labels(name, "encode")
        self.batch_size = metrics.batch_size.labels(name)
        self.padding = metrics.padding_images.labels(name)
        self._images = {outcome: metrics.images.labels(name, version, outcome) for outcome in get_args(Outcome)}

    @contextmanager
    def failures_counted(self, pictures: int = 1) -> Iterator[None]:
        """Counts so many pictures by the error that ends this block."""
        try:
            yield
        except ServiceError as error:
            self.count(error.outcome, pictures)
            raise
        except CancelledError:
            self.count("cancelled", pictures)
            raise
        except Exception:
            self.count("failed", pictures)
            raise

    def count(self, outcome: Outcome, pictures: int = 1) -> None:
        """So many pictures came to this end."""
        self._images[outcome].inc(pictures)
