"""Ray Serve: decoding and batched inference off the event loop, a plain Starlette request."""

import asyncio
import os
import signal

import numpy as np
import ray
from common import Contract, Model
from ray import serve
from starlette.requests import Request

WORKERS = int(os.environ["BENCH_WORKERS"])


# Half a CPU in Ray's book-keeping leaves room for its own actors; it limits nothing.
@serve.deployment(num_replicas=WORKERS, max_ongoing_requests=128, ray_actor_options={"num_cpus": 0.5})
class Classifier:
    """The deployment."""

    def __init__(self) -> None:
        self.contract, self.model = Contract.from_environment(), Model.from_environment()

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.005)
    async def infer(self, pixels: list[np.ndarray]):
        """Probabilities of each picture of a batch."""
        return list(await asyncio.to_thread(self.model.infer, np.stack(pixels)))

    async def __call__(self, request: Request):
        """The answer for one picture."""
        pixels = await asyncio.to_thread(self.contract.decode, await request.body())
        return self.contract.answer(await self.infer(pixels))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    quiet = {"enable_access_log": False}
    ray.init(
        num_cpus=WORKERS,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=os.environ["BENCH_SCRATCH"] + "/ray",
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["BENCH_PORT"])}, logging_config=quiet)
    try:
        serve.run(Classifier.bind(), route_prefix="/classify", logging_config=quiet)
        signal.pause()
    except KeyboardInterrupt:
        serve.shutdown()
        ray.shutdown()
