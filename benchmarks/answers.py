"""What a server says: whether its labels are right, and the service's own account of its batches."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.load import TIMEOUT, body, content_type
from benchmarks.records import PictureSet
from benchmarks.servers import Server
from benchmarks.serving import Running


def wrong_answers(running: Running, pictures: PictureSet) -> int:
    """Ask for every picture once, all at the same time so that batches form.

    Returns:
        How many answers were not 200 or had another top-1 label than the bare session gives.
    """
    return asyncio.run(_count_wrong(running, pictures))


def label_of(server: Server, answer: Any) -> Any:
    """The top-1 label in a server's JSON answer; nothing where there is none."""
    for key in server.label_at.split("."):
        try:
            answer = answer[int(key) if isinstance(answer, list) else key]
        except (LookupError, TypeError, ValueError):
            return None
    return answer


def batches(port: int) -> tuple[float, float]:
    """Pictures that the service has run and the runs it took, from its metrics."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=30).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    pictures = sum(sample.value for sample in samples if sample.name == "stripmlp_batch_size_sum")
    return pictures, sum(sample.value for sample in samples if sample.name == "stripmlp_batch_size_count")


async def _count_wrong(running: Running, pictures: PictureSet) -> int:
    async with httpx.AsyncClient(trust_env=False, timeout=TIMEOUT) as client:

        async def is_wrong(name: str, expected: str) -> bool:
            jpeg = (Path(pictures.folder) / name).read_bytes()
            headers = {"Content-Type": content_type(running.server)}
            reply = await client.post(running.url, content=body(running.server, jpeg), headers=headers)
            return reply.status_code != httpx.codes.OK or label_of(running.server, reply.json()) != expected

        return sum(await asyncio.gather(*(is_wrong(*item) for item in pictures.labels.items())))
