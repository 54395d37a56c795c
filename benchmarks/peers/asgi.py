"""HTTP of the servers that are there for comparison alone, on ASGI itself: every POST is a picture."""

from collections.abc import Awaitable, Callable, Sequence

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.types import Receive, Send

Classify = Callable[[bytes], Awaitable[NDArray[np.float32]]]

TOP_K = 5


async def respond(receive: Receive, send: Send, classify: Classify, labels: Sequence[str]) -> None:
    """Read a request's body, and send the likeliest labels by the probabilities (classes,) that `classify` gives."""
    chunks, more = [], True
    while more:
        message = await receive()
        chunks.append(message.get("body", b""))
        more = message.get("more_body", False)
    probabilities = await classify(b"".join(chunks))
    best = np.argsort(-probabilities, kind="stable")[:TOP_K].tolist()
    predictions = [{"label": labels[each], "probability": float(probabilities[each])} for each in best]
    body = orjson.dumps({"results": [{"predictions": predictions}]})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def live(receive: Receive, send: Send, start: Callable[[], Awaitable[None]], end: Callable[[], None]) -> None:
    """The lifespan: `start` is awaited before requests come, `end` called after the last."""
    await receive()
    await start()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    end()
    await send({"type": "lifespan.shutdown.complete"})
