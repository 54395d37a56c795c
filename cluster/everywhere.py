"""What concerns all replicas, asked of whichever Ray's proxy chose: metrics, and reloading."""

import asyncio
import logging
from collections.abc import Iterable

from prometheus_client import Metric, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from ray import serve
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

METRICS, RELOAD = "/metrics", "/models/reload"

PATIENCE = 8.0
"""Seconds for all replicas to answer; Prometheus waits for ten."""


class Everywhere:
    """Has `/metrics` and `/models/reload` concern every replica, if this one's service lets the caller have its own.

    Args:
        service: this replica's.
    """

    def __init__(self, service: ASGIApp) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in (METRICS, RELOAD):
            await self._service(scope, receive, send)
            return
        own: list[Message] = []

        async def keep(message: Message) -> None:
            own.append(message)

        await self._service(scope, receive, keep)
        allowed = own[0]["status"] == 200
        if allowed and scope["path"] == METRICS:
            told = await _ask_all("metrics")
            answer = Response(generate_latest(Together(told)), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})
            await answer(scope, receive, send)
            return
        if allowed:
            await _ask_all("reload")
        for message in own:
            await send(message)


async def _ask_all(method: str) -> list[tuple[str, str]]:
    """What the method of each replica returns; those that fail, as they do that end, or hang, are left out."""
    context = serve.get_replica_context()
    replicas = serve.get_deployment_handle(context.deployment, context.app_name)
    results = replicas.broadcast(method).results  # `results_async` gives up on all of them where one hangs
    answers = await asyncio.to_thread(results, timeout_s=PATIENCE, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, Exception):
            logger.warning("a replica does not answer: %s", answer)
    return [answer for answer in answers if not isinstance(answer, Exception)]


class Together(Collector):
    """Metrics of several processes.

    Args:
        texts: of each its name, which its samples get as label `replica`, and its metrics in Prometheus's text format.
    """

    def __init__(self, texts: Iterable[tuple[str, str]]) -> None:
        self._texts = texts

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for replica, text in self._texts:
            for family in text_string_to_metric_families(text):
                together = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                together.samples += [
                    sample._replace(labels={**sample.labels, "replica": replica}) for sample in family.samples
                ]
        return families.values()
