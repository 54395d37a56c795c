"""Every setting of the service: from the command line, else from the environment, else the default."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.cpus import usable_cpus
from service.decoder_process import DecodeLimits
from service.decoding import PILLOWS_MOST_PIXELS
from service.providers import DEVICE_PATTERN

LogLevel = Literal["critical", "error", "warning", "info", "debug"]
LogFormat = Literal["auto", "json", "text"]


class Settings(BaseSettings):
    """Serve Strip-MLP models over HTTP."""

    model_config = SettingsConfigDict(
        env_prefix="STRIPMLP_",
        cli_prog_name="strip-mlp-serve",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_show_env_vars=True,
        extra="forbid",
        frozen=True,
    )

    models: Path = Field(Path("weights/models"), description="model repository: <name>/<version>/model.onnx")
    default_model: str | None = Field(
        None, description="model for requests that name none; needless when only one is served"
    )
    keep_versions: PositiveInt = Field(1, description="how many of each model's newest versions are served")
    poll_seconds: NonNegativeFloat = Field(
        5, description="how often the repository is looked at for changes; 0: only on SIGHUP and POST /models/reload"
    )
    admin_token: SecretStr | None = Field(
        None, min_length=1, description="bearer token of reload, load and unload, which are off without one"
    )

    api_keys_file: Path | None = Field(
        None, description="TOML file of the clients' hashed keys; without one, nobody needs a key"
    )

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 picks a free one")
    admin_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port for /metrics and for what needs the admin token, which the other port has no more then",
    )
    admin_host: str | None = Field(None, description="address to listen on with --admin-port; default: that of --host")
    grpc_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port for the Open Inference Protocol over gRPC, which is off without one; needs the 'grpc' extra",
    )
    workers: PositiveInt = Field(1, description="processes that share the port, each with models of its own")

    max_connections: PositiveInt = Field(1000, description="most open HTTP connections")
    header_seconds: PositiveFloat = Field(10, description="longest time that a request's headers may take to arrive")

    device: str = Field(
        "auto",
        pattern=DEVICE_PATTERN,
        description="auto, cpu, cuda or cuda:0,cuda:1, tensorrt or tensorrt:0,tensorrt:1; cuda and tensorrt refuse to "
        "start where they do not work; auto takes the CPU then",
    )
    tf32: bool = Field(False, description="on a GPU, let float32 products round their factors to 10 bits")
    cuda_graphs: bool = Field(False, description="on a GPU, launch the kernels of a batch size as one")
    engine_cache: Path | None = Field(
        None, description="folder where TensorRT keeps what it built; without one it builds anew at each start"
    )
    instances: PositiveInt | None = Field(
        None, description="runs of a model at once on each device; default: usable cores / threads, 1 on a GPU"
    )
    threads: PositiveInt = Field(1, description="CPU threads of one run")
    decode_threads: PositiveInt | None = Field(
        None,
        description="pictures decoded, and on the CPU batches run, at once, the former by as many processes; default: "
        "usable cores + 1, as a decoder spends a part of its time waiting for the next picture",
    )
    max_batch: PositiveInt = Field(32, description="largest batch that is tried when a model is loaded")
    batch_limit: PositiveInt | None = Field(
        None, description="most pictures in one run; default: as measured when the model is loaded"
    )
    latency_budget_ms: PositiveFloat = Field(
        500,
        description="longest run that the measured batch limit may lead to; with one thread on the CPU, in CPU time",
    )

    max_queue: PositiveInt = Field(
        512, description="most pictures in work of each version of a model; beyond them requests get 429"
    )
    max_queue_mb: PositiveInt = Field(256, description="most bytes of request bodies held at once, MiB")
    timeout_ms: PositiveInt = Field(30_000, description="deadline of requests without X-Request-Timeout-Ms")
    max_timeout_ms: PositiveInt = Field(120_000, description="longest deadline that a request may ask for")
    max_images: PositiveInt = Field(128, description="most pictures in one request")
    max_request_mb: PositiveInt = Field(64, description="largest request body, MiB")
    max_image_mb: PositiveInt = Field(20, description="largest encoded picture, MiB")
    max_body_seconds: PositiveInt = Field(
        60, description="longest time that a request's body may take to arrive, and its answer to be read"
    )
    decode_seconds: PositiveFloat = Field(10, description="longest time that decoding one picture may take")
    max_pixels: PositiveInt = Field(
        50_000_000, le=PILLOWS_MOST_PIXELS, description=f"most pixels of a decoded picture, up to {PILLOWS_MOST_PIXELS}"
    )

    exact_decode: bool = Field(
        False,
        description="decode and resize pictures as in training also where they are much larger than needed; slower, "
        "and up to 0.4 of 255 levels closer on average",
    )

    stall_seconds: PositiveFloat = Field(
        60, description="longest time that one run or one decode may take before the service calls itself not ready"
    )
    drain_seconds: NonNegativeFloat = Field(
        5, description="time between SIGTERM, when /readyz turns 503, and the end of listening"
    )
    shutdown_seconds: PositiveInt = Field(30, description="longest time that running requests get to end on shutdown")
    log_level: LogLevel = Field("info", description="least severe messages that are logged")
    log_format: LogFormat = Field("auto", description="auto: text on a terminal, else JSON lines")
    log_filenames: bool = Field(False, description="whether the log names the files that were sent")
    tracing: bool = Field(
        False,
        description="send traces by OTLP over HTTP, to where OTEL_EXPORTER_OTLP_ENDPOINT says; needs the 'otel' extra",
    )

    @property
    def cores(self) -> int:
        """Processor cores for one of the `workers`."""
        return max(1, usable_cpus() // self.workers)

    @property
    def has_peers(self) -> bool:
        """Whether other processes answer the same clients, also while this one's models are being loaded."""
        return self.workers > 1

    @property
    def decode_limits(self) -> DecodeLimits:
        """What one picture may take."""
        return DecodeLimits(self.max_pixels, self.max_image_mb << 20, self.decode_seconds, self.exact_decode)

    @model_validator(mode="after")
    def _limits_agree(self) -> Self:
        for small, large, what in (
            ("max_images", "max_queue", "such a request never fits"),
            ("max_request_mb", "max_queue_mb", "such a request never fits"),
            ("timeout_ms", "max_timeout_ms", "a request may not ask for the default"),
        ):
            if getattr(self, small) > getattr(self, large):
                raise ValueError(f"{small} is {getattr(self, small)}, but {large} only {getattr(self, large)}: {what}")
        if self.admin_port == self.port != 0:
            raise ValueError(f"admin_port is {self.admin_port}, which is the port of all others")
        if self.workers > 1 and self.grpc_port == 0:
            raise ValueError("grpc_port is 0, which would be another port in each of the workers: name one")
        return self
