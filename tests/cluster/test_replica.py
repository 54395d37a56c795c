"""What a replica tells Ray."""

import asyncio
from pathlib import Path

import pytest
import uvicorn
from uvicorn.lifespan.on import LifespanOn

from cluster.replica import Replica
from cluster.settings import ClusterSettings
from service.errors import NotReady
from tests.service import colours


def test_a_replica_is_healthy_while_it_is_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for concerns_the_process in ("start_logging", "keep_heap_small", "sys.setswitchinterval"):
        monkeypatch.setattr(f"cluster.replica.{concerns_the_process}", lambda *_: None)
    colours.save_served(tmp_path)

    async def life() -> None:
        replica = Replica(ClusterSettings(models=tmp_path, device="cpu", poll_seconds=0))
        lifespan = LifespanOn(uvicorn.Config(replica.__serve_build_asgi_app__(), log_config=None))
        with pytest.raises(NotReady, match="being loaded"):
            await replica.check_health()
        await lifespan.startup()
        try:
            await replica.check_health()
            replica._service.models.draining = True
            with pytest.raises(NotReady, match="shutting down"):
                await replica.check_health()
        finally:
            await lifespan.shutdown()

    asyncio.run(life())
