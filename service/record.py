"""What is known of one HTTP request: its headers, metrics, log line and trace all tell it."""

import re
import secrets
from asyncio import CancelledError
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Literal

from opentelemetry.trace import Span
from starlette.types import Scope

from service.errors import Outcome, ServiceError

if TYPE_CHECKING:
    from service.keys import Key
    from service.models import ServedModel

Stage = Literal["read", "decode", "queue", "infer", "encode"]
"""What takes time, in the order in which a picture comes to it."""

REQUEST_ID_PATTERN = r"[A-Za-z0-9._~:/+=-]{1,128}"
"""Request ids that are taken from clients: what ids are made of, and nothing that could forge a line of a log."""

KEY = "stripmlp.record"
"""Where a request's ASGI scope has its record."""


class RequestRecord:
    """Filled as the request goes on. Belongs to the event loop.

    Args:
        sent_id: what the client calls the request, its `X-Request-Id`, if any.
        span: of the request, or the client's if requests are not traced; invalid if there is none.
    """

    def __init__(self, sent_id: str, span: Span) -> None:
        self.request_id = sent_id if re.fullmatch(REQUEST_ID_PATTERN, sent_id) else secrets.token_hex(16)
        self.span = span
        self.started = perf_counter()
        self.status = 500
        """Of the answer. Until there is one it is what the client gets if nobody ever gives one."""
        self.key: Key | None = None
        """The client's, where there are keys."""
        self.model: ServedModel | None = None
        self.filenames: Sequence[str | None] = ()
        self.outcomes: Counter[Outcome] = Counter()
        """Of the request's pictures."""
        self.stages: dict[Stage, tuple[float, float]] = {}
        """From the first picture's start to the last picture's end in each, on the clock of `time.perf_counter`."""

    @classmethod
    def of(cls, scope: Scope) -> "RequestRecord":
        """That of the request with this ASGI scope."""
        record: RequestRecord = scope[KEY]
        return record

    @property
    def trace_id(self) -> str | None:
        """32 hexadecimal digits (W3C Trace Context), None without a trace."""
        context = self.span.get_span_context()
        return format(context.trace_id, "032x") if context.is_valid else None

    @property
    def server_timing(self) -> str:
        """The stages so far and the whole, in milliseconds, as the value of a Server-Timing header (W3C)."""
        return ", ".join(
            [
                *(f"{stage};dur={1000 * (end - start):.2f}" for stage, (start, end) in self.stages.items()),
                f"total;dur={1000 * (perf_counter() - self.started):.2f}",
            ]
        )

    def reached(self, stage: Stage, start: float, end: float) -> None:
        """One of the pictures spent this time in a stage."""
        before = self.stages.get(stage)
        self.stages[stage] = (start, end) if before is None else (min(before[0], start), max(before[1], end))

    @contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        """The request as a whole spends this block in a stage; counted only if it ends well."""
        start = perf_counter()
        yield
        end = perf_counter()
        self.reached(stage, start, end)
        if self.model is not None:
            self.model.metrics.stage_seconds[stage].observe(end - start)

    def count(self, outcome: Outcome, pictures: int = 1) -> None:
        """So many of the request's pictures came to this end."""
        self.outcomes[outcome] += pictures
        if self.model is not None:
            self.model.metrics.count(outcome, pictures)

    @contextmanager
    def failures_counted(self, pictures: int = 1) -> Iterator[None]:
        """Counts so many pictures by the error that ends this block."""
        try:
            yield
        except ServiceError as error:
            self.count(error.outcome, pictures)
            raise
        except CancelledError:
            self.count("cancelled", pictures)
            raise
        except Exception:
            self.count("failed", pictures)
            raise
