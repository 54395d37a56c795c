"""LitServe: decoding and batched prediction in the inference workers, an API server for each of them."""

import os

import litserve
import numpy as np
from common import Contract, Model


class Classifier(litserve.LitAPI):
    """The hooks that LitServe calls, in this order."""

    def setup(self, device):
        """Load the model, once in every worker."""
        self.contract, self.model = Contract.from_environment(), Model.from_environment()

    def decode_request(self, request):
        """The pixels of the request's picture."""
        return self.contract.decode(request["image"].file.read())

    def batch(self, inputs):
        """Pictures to one batch."""
        return np.stack(inputs)

    def predict(self, pixels):
        """Probabilities of a batch."""
        return self.model.infer(pixels)

    def unbatch(self, probabilities):
        """A batch's probabilities to those of each picture."""
        return list(probabilities)

    def encode_response(self, probabilities):
        """The answer for one picture."""
        return self.contract.answer(probabilities)


if __name__ == "__main__":
    api = Classifier(max_batch_size=32, batch_timeout=0.005, api_path="/classify")
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=int(os.environ["BENCH_WORKERS"]), fast_queue=True, timeout=60
    )
    server.run(host="127.0.0.1", port=int(os.environ["BENCH_PORT"]), log_level="warning", generate_client_file=False)
