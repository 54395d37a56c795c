"""mosec: a stage of processes that decode, then one of processes that batch; raw bytes in, JSON out."""

import os

import numpy as np
from common import Contract, Model
from mosec import Server, Worker


class Decode(Worker):
    """Bytes to pixels, one picture at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.contract = Contract.from_environment()

    def deserialize(self, data):
        """The body is the picture."""
        return data

    def forward(self, jpeg):
        """The pixels of one picture."""
        return self.contract.decode(jpeg)


class Infer(Worker):
    """Pixels to answers, in batches."""

    def __init__(self) -> None:
        super().__init__()
        self.contract, self.model = Contract.from_environment(), Model.from_environment()

    def forward(self, pixels):
        """The answers for a batch."""
        return [self.contract.answer(probabilities) for probabilities in self.model.infer(np.stack(pixels))]


if __name__ == "__main__":
    workers = int(os.environ["BENCH_WORKERS"])
    server = Server()
    server.append_worker(Decode, num=workers)
    server.append_worker(Infer, num=workers, max_batch_size=32, max_wait_time=5)
    server.run()
