"""The service as a queue, simulated: what becomes of a rate of requests on so many cores, from what each step costs.

Cores are shared by all that runs, as an operating system does it. The rest is the service's: pictures are let in if
they can be answered in time (`service.admission`), slots are given to what `service.scheduling` would start, and
decoded pictures run in batches (`service.batching`).
"""

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from statistics import mean, quantiles
from typing import Any

import numpy as np
import simpy

from service.admission import ServiceRate

Process = Generator[simpy.Event, Any, None]


@dataclass(frozen=True)
class Cost:
    """CPU seconds that one picture took at some load. They are more where less is done at a time: what comes alone
    wakes threads, and finds cold caches."""

    in_work: float
    """Requests that one finds in work, itself included, on average."""
    batch: float
    """Pictures in a batch, on average."""
    http: float
    """The event loop's: reading, handing over to the decoder and back, answering, counting."""
    run: float
    """In the thread that runs a batch."""
    decode: float
    """In the decoder's process."""
    client: float = 0.0
    """Of whoever sends the request, if that is on the same cores."""


@dataclass(frozen=True)
class Costs:
    """Measured at one load or more."""

    by_load: Sequence[Cost]
    """Ascending."""
    variation: Sequence[float] = (1.0,)
    """How many times as long as the mean each request takes; they come in turn. A batch takes the mean of its own."""
    speed: float = 1.0
    """Of the cores, beside what these were measured at: less than 1 where the machine is slower by now, or cannot use
    all of its cores' time."""

    def at(self, in_work: float) -> Cost:
        """With so many requests in work: between the loads by the logarithm of that, beyond them as at the next."""
        known = np.log([each.in_work for each in self.by_load])

        def between(figure: str) -> float:
            return float(np.interp(np.log(max(1, in_work)), known, [getattr(each, figure) for each in self.by_load]))

        return Cost(in_work, *(between(figure) for figure in ("batch", "http", "run", "decode", "client")))

    def run(self, batch: int) -> float:
        """Of a batch, between the sizes that were measured in proportion, beyond them for each picture the same."""
        sizes = [each.batch for each in self.by_load]
        seconds = [each.batch * each.run for each in self.by_load]
        if batch > sizes[-1]:
            return batch * self.by_load[-1].run
        return float(np.interp(batch, sizes, seconds))

    def each(self, batch: int) -> float:
        """Of one picture in batches of that size, with everything, where all cores are busy."""
        busiest = self.by_load[-1]
        return busiest.http + busiest.decode + busiest.client + self.run(batch) / batch


@dataclass(frozen=True)
class Setup:
    """What is asked for, and of what."""

    cores: int
    batch_limit: int
    arrivals: Sequence[float]
    """When requests of one picture each are sent, seconds, ascending."""
    deadline: float
    """Seconds."""
    max_queue: int = 512


@dataclass
class Outcome:
    """What became of the requests."""

    answered: list[float] = field(default_factory=list)
    """Seconds that each took."""
    refused: int = 0
    late: int = 0

    @property
    def p50(self) -> float:
        return quantiles(self.answered, n=100)[49]

    @property
    def p99(self) -> float:
        return quantiles(self.answered, n=100)[98]

    @property
    def refused_share(self) -> float:
        return self.refused / (self.refused + self.late + len(self.answered))


@dataclass(eq=False)
class _Job:
    left: float
    done: simpy.Event


class _Cores:
    """Processor sharing: each of k jobs goes on at min(1, cores / k) of a core's speed."""

    def __init__(self, env: simpy.Environment, cores: int, speed: float) -> None:
        self._env = env
        self._cores = cores
        self._full_speed = speed
        self._jobs: list[_Job] = []
        self._last = 0.0
        self._changes = 0

    def work(self, seconds: float) -> simpy.Event:
        """Happens when a job of so many CPU seconds is done."""
        self._advance()
        job = _Job(seconds, self._env.event())
        self._jobs.append(job)
        self._plan()
        return job.done

    @property
    def _speed(self) -> float:
        return self._full_speed * min(1.0, self._cores / len(self._jobs))

    def _advance(self) -> None:
        if self._jobs:
            done = (self._env.now - self._last) * self._speed
            for job in self._jobs:
                job.left -= done
        self._last = self._env.now

    def _plan(self) -> None:
        self._changes += 1
        if self._jobs:
            self._env.process(self._finish(self._changes, max(0.0, min(job.left for job in self._jobs)) / self._speed))

    def _finish(self, change: int, seconds: float) -> Process:
        yield self._env.timeout(seconds)
        if change != self._changes:
            return  # something came or went meanwhile
        self._advance()
        first = min(self._jobs, key=lambda job: job.left)
        self._jobs.remove(first)
        first.done.succeed()
        self._plan()


@dataclass(eq=False)
class _Picture:
    came: float
    ran: simpy.Event
    variation: float
    due: float = 0.0
    """When it runs even if its batch is not full."""


class _Service:
    def __init__(self, env: simpy.Environment, costs: Costs, setup: Setup, outcome: Outcome) -> None:
        self._env, self._costs, self._setup, self._outcome = env, costs, setup, outcome
        self._cores = _Cores(env, setup.cores, costs.speed)
        self._loop = simpy.Resource(env)
        self._client = simpy.Resource(env)
        self._to_decode: deque[_Picture] = deque()
        self._to_run: deque[_Picture] = deque()
        self._idle: list[simpy.Event] = []
        self._variation = cycle(costs.variation)
        self._decoding = self._running = 0
        self._in_work = 0
        self._known: dict[int, Cost] = {}
        self._full_batch = costs.run(setup.batch_limit)
        self._slots = setup.cores + 1
        self._rate = ServiceRate(costs.speed * setup.cores / costs.each(setup.batch_limit), self._slots)
        for _ in range(self._slots):
            env.process(self._slot())

    def arrivals(self) -> Process:
        for due in self._setup.arrivals:
            yield self._env.timeout(due - self._env.now)
            self._env.process(self._request())

    def _request(self) -> Process:
        came = self._env.now
        yield from self._turn(self._client, self._now.client / 2)
        yield from self._turn(self._loop, self._now.http / 3)
        needed = (self._in_work + 1) / self._rate.per_second + 2 * self._full_batch
        busy = self._in_work > self._rate.busy
        if self._in_work >= self._setup.max_queue or (busy and needed > self._setup.deadline):
            self._outcome.refused += 1
            yield from self._answer()
            return
        self._in_work += 1
        picture = _Picture(came, self._env.event(), next(self._variation))
        self._to_decode.append(picture)
        self._wake()
        yield picture.ran
        self._in_work -= 1
        self._rate.finished(self._in_work, self._env.now)
        yield from self._answer()
        took = self._env.now - came
        if took > self._setup.deadline:
            self._outcome.late += 1
        else:
            self._outcome.answered.append(took)

    @property
    def _now(self) -> Cost:
        if self._in_work not in self._known:
            self._known[self._in_work] = self._costs.at(self._in_work)
        return self._known[self._in_work]

    def _answer(self) -> Process:
        yield from self._turn(self._loop, self._now.http / 3)
        yield from self._turn(self._client, self._now.client / 2)

    def _turn(self, thread: simpy.Resource, seconds: float) -> Process:
        """Of what does one thing after another."""
        with thread.request() as turn:
            yield turn
            yield self._cores.work(seconds)

    def _slot(self) -> Process:
        while True:
            able = self._to_run and self._running < self._setup.cores
            due = able and (len(self._to_run) >= self._setup.batch_limit or self._env.now >= self._to_run[0].due)
            gathering = self._to_decode or self._decoding + self._running >= self._setup.cores
            if self._to_decode and not due:
                picture = self._to_decode.popleft()
                self._decoding += 1
                yield self._cores.work(picture.variation * self._now.decode)
                yield from self._turn(self._loop, self._now.http / 3)
                self._decoding -= 1
                picture.due = self._env.now + self._full_batch
                self._to_run.append(picture)
                self._wake()
            elif due or (able and not gathering):
                count = min(len(self._to_run), self._setup.batch_limit)
                sharers = min(self._setup.cores - self._running, self._slots - self._decoding - self._running)
                batch = [self._to_run.popleft() for _ in range(-(-count // sharers))]
                self._running += 1
                self._wake()
                varied = mean(picture.variation for picture in batch)
                yield self._cores.work(varied * self._costs.run(len(batch)))
                self._running -= 1
                for picture in batch:
                    picture.ran.succeed()
            else:
                woken = self._env.event()
                self._idle.append(woken)
                if able:
                    yield woken | self._env.timeout(self._to_run[0].due - self._env.now)
                    if woken in self._idle:
                        self._idle.remove(woken)
                else:
                    yield woken

    def _wake(self) -> None:
        if self._idle:
            self._idle.pop().succeed()


def simulate(costs: Costs, setup: Setup) -> Outcome:
    """What becomes of the requests. The same every time."""
    env = simpy.Environment()
    outcome = Outcome()
    service = _Service(env, costs, setup, outcome)
    env.process(service.arrivals())
    env.run()
    return outcome
