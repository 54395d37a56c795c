"""Prometheus metrics: where requests, pictures and time go."""

import os
from collections.abc import Sequence
from typing import Literal, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

from service.errors import Outcome
from service.gpu import GpuCollector
from service.record import Stage
from service.worker_processes import MULTIPROCESS_FOLDER, WorkerProcessCollector

SECONDS = tuple(0.00025 * 2**power for power in range(18))
"""Geometric, 0.25 ms to 33 s."""

BATCH_SIZES = tuple(float(2**power) for power in range(10))

PROBABILITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)

MOST_LABELS = 200
"""Models of more classes have no counter for each: a series for each class is more than Prometheus should hold."""

GaugeMode = Literal["livesum", "livemax", "livemin"]

disable_created_metrics()  # a second series beside every counter, which nobody asks for


class Metrics:
    """One set of metrics in a registry of its own, so that several services can live in one process.

    Where several processes serve (`PROMETHEUS_MULTIPROC_DIR` is set, see `service.supervisor`), they share their values
    through files, and each of them exposes the sums.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        folder = os.environ.get(MULTIPROCESS_FOLDER)
        self._shared = folder is not None
        self._exposed = CollectorRegistry() if self._shared else self.registry
        if folder is not None:
            MultiProcessCollector(self._exposed, folder)
            self._exposed.register(WorkerProcessCollector(folder))
        else:
            ProcessCollector(registry=self._exposed)
            GCCollector(registry=self._exposed)
        self._gpus: GpuCollector | None = None

        self.requests = self._counter("stripmlp_requests", "HTTP requests answered.", "endpoint", "code")
        self.request_seconds = self._histogram(
            "stripmlp_request_duration_seconds",
            "Time from a request's headers to the end of its answer.",
            SECONDS,
            "endpoint",
        )
        self.key_requests = self._counter("stripmlp_key_requests", "Requests answered, by API key.", "key", "code")
        self.key_images = self._counter("stripmlp_key_images", "Pictures received, by API key.", "key", "outcome")
        self.api_keys_error = self._gauge(
            "stripmlp_api_keys_error", "1 if the file of API keys cannot be used as it is, else 0.", "livemax"
        )
        self.images = self._counter(
            "stripmlp_images",
            "Pictures received for a model, by what became of them: each exactly once. A request that ended before its "
            "body was read counts as one picture.",
            "model", "version", "outcome",
        )  # fmt: skip
        self.stage_seconds = self._histogram(
            "stripmlp_stage_duration_seconds",
            "Time in each stage: read and encode per request, decode and queue per picture, infer per batch.",
            SECONDS,
            "model", "stage",
        )  # fmt: skip
        self.batch_size = self._histogram(
            "stripmlp_batch_size", "Pictures in one run of a model, without padding.", BATCH_SIZES, "model"
        )
        self.batch_padding = self._counter(
            "stripmlp_batch_padding", "Blank pictures that filled batches up to a size that was warmed.", "model"
        )
        self.predictions = self._counter(
            "stripmlp_predictions",
            f"Pictures by their most probable class, of models of up to {MOST_LABELS} classes.",
            "model", "label",
        )  # fmt: skip
        self.top1_probability = self._histogram(
            "stripmlp_top1_probability", "Probability of each picture's most probable class.", PROBABILITIES, "model"
        )
        self.queue_images = self._gauge(
            "stripmlp_queue_images", "Pictures in work or waiting, over all versions.", "livesum", "model"
        )
        self.queue_limit = self._gauge(
            "stripmlp_queue_limit",
            "Most pictures in work or waiting, over all versions; beyond them requests are refused.",
            "livesum",
            "model",
        )
        self.body_bytes = self._gauge("stripmlp_body_bytes", "Bytes of request bodies that are held.", "livesum")
        self.in_flight_requests = self._gauge(
            "stripmlp_in_flight_requests", "Requests being answered, this one among them.", "livesum"
        )
        self.connections = self._gauge("stripmlp_connections", "Open HTTP connections.", "livesum")
        self.connections_refused = self._counter(
            "stripmlp_connections_refused",
            "Connections ended without an answer to a request: too many, headers too slow or large, no HTTP.",
            "reason",
        )
        self.decode_busy_threads = self._gauge(
            "stripmlp_decode_busy_threads", "Pictures that are being decoded.", "livesum"
        )
        self.decoder_deaths = self._counter(
            "stripmlp_decoder_deaths", "Decoder processes that ended with a picture in work.", "reason"
        )
        self.ready = self._gauge("stripmlp_ready", "1 if /readyz says 200, else 0.", "livemin")
        self.cuda_expected = self._gauge(
            "stripmlp_cuda_expected",
            "1 if models should run on a GPU: by --device cuda or tensorrt, or by auto with a runtime that has CUDA.",
            "livemax",
        )
        self.model_info = self._gauge(
            "stripmlp_model_info",
            "1 for what is served; the labels say what it is and which execution provider runs it.",
            "livemax",
            "model", "version", "provider", "precision", "checkpoint_sha256",
        )  # fmt: skip
        self.model_loads = self._counter("stripmlp_model_loads", "Model files loaded, or not.", "model", "outcome")
        self.model_load_failed = self._gauge(
            "stripmlp_model_load_failed",
            "1 for each version in the repository that should be served but could not be loaded.",
            "livemax",
            "model", "version",
        )  # fmt: skip
        self.repository_error = self._gauge(
            "stripmlp_repository_error", "1 if the model repository cannot be read, else 0.", "livemax"
        )
        self.model_parity_error = self._gauge(
            "stripmlp_model_parity_max_abs_error",
            "Largest logit error that the export's parity check found.",
            "livemax",
            "model", "version",
        )  # fmt: skip

    def of_model(self, name: str, version: int, labels: Sequence[str]) -> "ModelMetrics":
        """The series of one version of a model that knows these labels."""
        return ModelMetrics(self, name, str(version), labels)

    def forget(self, gauge: Gauge, *labels: str) -> None:
        """Take a series away; among several processes, which cannot, it becomes 0."""
        gauge.labels(*labels).set(0)
        if not self._shared:
            gauge.remove(*labels)

    def watch_gpus(self) -> None:
        """Expose the memory and the utilisation of the machine's GPUs from now on, if NVML can be asked."""
        if self._gpus is None:
            self._gpus = GpuCollector()
            self._exposed.register(self._gpus)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics, and their content type: OpenMetrics if the `Accept` header asks for it, else Prometheus's text
        format 0.0.4."""
        try:
            encode, content_type = choose_encoder(accept)
        except TypeError:  # it has compared a version that is no number
            encode, content_type = choose_encoder("")
        return encode(self._exposed), content_type

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, text: str, among_processes: GaugeMode, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry, multiprocess_mode=among_processes)


class ModelMetrics:
    """One version's series, looked up once: on the way of every picture the look-up would cost more than counting."""

    def __init__(self, metrics: Metrics, name: str, version: str, labels: Sequence[str]) -> None:
        self.stage_seconds: dict[Stage, Histogram] = {
            stage: metrics.stage_seconds.labels(name, stage) for stage in get_args(Stage)
        }
        self.batch_size = metrics.batch_size.labels(name)
        self.padding = metrics.batch_padding.labels(name)
        self._images = {outcome: metrics.images.labels(name, version, outcome) for outcome in get_args(Outcome)}
        self._predictions = (
            [metrics.predictions.labels(name, label) for label in labels] if len(labels) <= MOST_LABELS else None
        )
        self._top1_probability = metrics.top1_probability.labels(name)

    def count(self, outcome: Outcome, pictures: int = 1) -> None:
        """So many pictures came to this end."""
        self._images[outcome].inc(pictures)

    def count_prediction(self, class_id: int, probability: float) -> None:
        """The most probable class of one picture."""
        if self._predictions is not None:
            self._predictions[class_id].inc()
        self._top1_probability.observe(probability)
