"""What goes on beside the load of a soak: models come and go, decoders die, and some clients mean harm."""

import asyncio
import contextlib
import itertools
import os
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from signal import SIGKILL
from urllib.parse import urlsplit

import httpx
import psutil

from benchmarks.pictures import scan_bomb
from service.decoding import MOST_SCANS

SLOW_SENDERS = 20
"""At once; half of them with headers, half with a body that comes byte by byte."""

SLOW_SECONDS = 3


class Mischief:
    """Does everything in turn until it is cancelled.

    Args:
        url: where pictures are posted.
        token: the service's admin token.
        version: the folder of the model's one version.
        service: the service's process.
    """

    def __init__(self, url: str, token: str, version: Path, service: psutil.Process) -> None:
        self._deeds: dict[str, Callable[[], Awaitable[bool]]] = {
            "reloads": self._reload,
            "times slow senders": self._slow_senders,
            "killed decoders": self._kill_a_decoder,
            "bombs": self._bomb,
            "new versions": self._new_version,
        }
        self.done = Counter(dict.fromkeys(self._deeds, 0))
        """How often each kind was."""
        self.pictures = 0
        """Sent, and to be counted by the service."""
        self._url = url
        self._authorization = {"Authorization": f"Bearer {token}"}
        self._version = version
        self._service = service
        self._jpeg = scan_bomb(7000, 7000, MOST_SCANS)

    async def go_on(self, pause: float) -> None:
        """One thing after another, `pause` seconds apart."""
        for name, deed in itertools.cycle(self._deeds.items()):
            self.done[name] += await deed()
            await asyncio.sleep(pause)

    async def _reload(self) -> bool:
        base = self._url.removesuffix("/classify")
        async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
            answer = await client.post(f"{base}/models/reload", headers=self._authorization)
            answer.raise_for_status()
            assert not answer.json()["errors"], answer.text
        return True

    async def _new_version(self) -> bool:
        """The same model again, which is loaded beside the old one and takes its place."""
        newest = max(int(each.name) for each in self._version.parent.iterdir())
        coming = self._version.parent / f".{newest + 1}"
        await asyncio.to_thread(shutil.copytree, self._version.parent / str(newest), coming)
        coming.rename(coming.with_name(str(newest + 1)))
        await self._reload()
        await asyncio.to_thread(shutil.rmtree, self._version.parent / str(newest))
        return await self._reload()

    async def _bomb(self) -> bool:
        self.pictures += 1
        async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
            answer = await client.post(self._url, content=self._jpeg, headers={"Content-Type": "image/jpeg"})
            assert answer.status_code in (422, 429), answer.text
        return answer.status_code == 422

    async def _kill_a_decoder(self) -> bool:
        for decoder in [each for child in self._service.children() for each in child.children()]:
            with contextlib.suppress(ProcessLookupError):  # it was too slow a moment ago
                os.kill(decoder.pid, SIGKILL)
                return True
        return False

    async def _slow_senders(self) -> bool:
        parts = urlsplit(self._url)
        assert parts.hostname is not None  # the service's own
        head = f"POST {parts.path} HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n".encode()
        writers = []
        for number in range(SLOW_SENDERS):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(head if number % 2 else head + b"\r\n")
            self.pictures += 1 - number % 2  # those whose headers came
            writers.append(writer)
        for _ in range(SLOW_SECONDS):
            for writer in writers:
                writer.write(b"a")
            await asyncio.sleep(1)
        for writer in writers:
            writer.close()
        return True
