"""Settings of the service on a Ray cluster: the service's own, and how many of it there are."""

from pathlib import Path
from typing import Self, TypeVar

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from pydantic_settings import SettingsConfigDict

from service.settings import Settings

Kind = TypeVar("Kind", bound=Settings)


class ClusterSettings(Settings):
    """Serve Strip-MLP models on the nodes of a Ray cluster."""

    model_config = SettingsConfigDict(cli_prog_name="strip-mlp-cluster")

    address: str | None = Field(
        None,
        description="Ray cluster to run on: auto, host:port or ray://host:port; default: a new one on this machine",
    )
    replicas: PositiveInt = Field(1, description="how many services there are, or with --max-replicas at least")
    max_replicas: PositiveInt | None = Field(
        None, description="how many services there may be under load; default: always as many as --replicas"
    )
    replica_cpus: PositiveInt = Field(1, description="processor cores of each service")
    replica_gpus: NonNegativeFloat = Field(0, description="GPUs of each service; 0.5: two share one")
    ongoing_requests: PositiveFloat = Field(
        32, description="requests that each service should have in work; more services are started beyond that"
    )

    @property
    def cores(self) -> int:
        """Processor cores for one replica: Ray counts them, but keeps nobody to them."""
        return self.replica_cpus

    @property
    def has_peers(self) -> bool:
        """Ray sends requests to others until this replica's models are loaded."""
        return True

    @model_validator(mode="after")
    def _fits_ray(self) -> Self:
        for name, instead in (
            ("grpc_port", "clients come through Ray's HTTP proxy"),
            ("admin_port", "clients come through Ray's HTTP proxy; use --api-keys-file, or close /metrics in front"),
        ):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} goes not with a cluster: {instead}")
        if self.workers > 1:
            raise ValueError("workers goes not with a cluster, which has --replicas")
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas is {self.max_replicas}, but replicas {self.replicas}")
        return self


def absolute(settings: Kind) -> Kind:
    """The same, with paths that do not depend on the folder that a process was started in: Ray's have others."""
    return settings.model_copy(update={name: value.absolute() for name, value in settings if isinstance(value, Path)})
