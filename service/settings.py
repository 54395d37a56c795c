"""Every setting of the service: from the command line, else from the environment, else the default."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.cpus import usable_cpus
from service.decoding import PILLOWS_MOST_PIXELS
from service.session import Device

LogLevel = Literal["critical", "error", "warning", "info", "debug"]


USABLE_CPUS = usable_cpus()


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
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 picks a free one")
    device: Device = Field(
        "auto", description="cuda refuses to start where CUDA does not work; auto takes the CPU then"
    )
    threads: PositiveInt = Field(USABLE_CPUS, description="CPU threads of one inference")
    decode_threads: PositiveInt = Field(USABLE_CPUS, description="threads that decode pictures")
    max_batch: PositiveInt = Field(32, description="most pictures in one run of a model")
    max_queue: PositiveInt = Field(512, description="most pictures of a model in work; beyond them requests get 429")
    max_images: PositiveInt = Field(128, description="most pictures in one request")
    max_request_mb: PositiveInt = Field(64, description="largest request body, MiB")
    max_image_mb: PositiveInt = Field(20, description="largest encoded picture, MiB")
    max_body_seconds: PositiveInt = Field(60, description="longest time that a request's body may take to arrive")
    shutdown_seconds: PositiveInt = Field(30, description="longest time that running requests get to end on shutdown")
    max_pixels: PositiveInt = Field(
        50_000_000, le=PILLOWS_MOST_PIXELS, description=f"most pixels of a decoded picture, up to {PILLOWS_MOST_PIXELS}"
    )
    log_level: LogLevel = Field("info", description="least severe messages that are logged")

    @model_validator(mode="after")
    def _largest_request_fits(self) -> Self:
        if self.max_images > self.max_queue:
            raise ValueError(
                f"max_images is {self.max_images}, but max_queue only {self.max_queue}: such a request never fits"
            )
        return self
