"""Every server that can be measured: how it is started, asked and stopped. README.md says by whose advice."""

from dataclasses import dataclass, field
from signal import SIGINT, SIGTERM, Signals
from typing import Final

OURS: Final = "ours"


@dataclass(frozen=True)
class Server:
    """One server with its settings.

    `{port}`, `{cores}` and `{scratch}` are filled in in `command` and `env`.
    """

    command: tuple[str, ...]
    """The first word is looked up in the environment's folder of programs."""
    path: str = "/classify"
    """Where a picture is posted."""
    multipart_field: str | None = None
    """Where a form is wanted, the name of the file's field; otherwise the body is the JPEG."""
    label_at: str = "top5.0.label"
    """Where the top-1 label is in the JSON answer."""
    environment: str = ""
    """Whose requirements file in `requirements/` it runs with."""
    distribution: str = ""
    """The package whose version is noted."""
    env: dict[str, str] = field(default_factory=dict)
    session_threads: str = "1"
    """Threads of one run of the model, for peers."""
    stop: Signals = SIGTERM
    """The signal that its manual names for a clean end."""
    isolated: bool = False
    """Run it and its load in a network namespace that has nothing but loopback."""

    @property
    def decodes_as_service(self) -> bool:
        """Whether it has the service's own decoding, which the others do not."""
        return self.environment == OURS


UVICORN = ("--host", "127.0.0.1", "--port", "{port}", "--loop", "uvloop", "--http", "httptools", "--no-access-log")

RAY = Server(
    ("python", "-m", "serve_ray"),
    environment="ray",
    distribution="ray",
    # Ray would give its workers a niceness of 15, where all else here has 0.
    env={"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"},
    # It opens ports of its own on the outward address.
    isolated=True,
)

PLAIN: Final = "fastapi"
"""The server that memory is compared with."""

SERVERS: Final[dict[str, Server]] = {
    OURS: Server(
        ("python", "-m", "service", "--models", "{scratch}/models", "--host", "127.0.0.1", "--port", "{port}"),
        label_at="results.0.predictions.0.label",
        environment=OURS,
        distribution="strip-mlp-serving",
    ),
    "least": Server(
        ("uvicorn", "benchmarks.peers.serve_least:app", *UVICORN, "--log-level", "warning"),
        label_at="results.0.predictions.0.label",
        environment=OURS,
        distribution="uvicorn",
        env={"BENCH_MODELS": "{scratch}/models"},
    ),
    "inline": Server(
        ("python", "-m", "benchmarks.peers.serve_inline", "{port}"),
        label_at="results.0.predictions.0.label",
        environment=OURS,
        distribution="uvicorn",
        env={"BENCH_MODELS": "{scratch}/models"},
    ),
    PLAIN: Server(
        ("uvicorn", "serve_fastapi:app", *UVICORN, "--log-level", "warning"),
        environment="fastapi",
        distribution="fastapi",
    ),
    "fastapi-workers": Server(
        ("uvicorn", "serve_fastapi:app", *UVICORN, "--log-level", "warning", "--workers", "{cores}"),
        environment="fastapi",
        distribution="fastapi",
    ),
    "litserve": Server(
        ("python", "-m", "serve_litserve"),
        multipart_field="image",
        environment="litserve",
        distribution="litserve",
        stop=SIGINT,
    ),
    "bentoml": Server(
        ("bentoml", "serve", "serve_bentoml:Classifier", "--host", "127.0.0.1", "--port", "{port}"),
        multipart_field="images",
        label_at="0.top5.0.label",
        environment="bentoml",
        distribution="bentoml",
        env={"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": "{scratch}"},
    ),
    "ray": RAY,
    "mosec": Server(
        (
            *("python", "-m", "serve_mosec", "--address", "127.0.0.1", "--port", "{port}"),
            *("--timeout", "60000", "--log-level", "warning"),
        ),
        path="/inference",
        environment="mosec",
        distribution="mosec",
    ),
}

DEFAULT: Final = (OURS, PLAIN, "litserve", "bentoml", "ray", "mosec")
