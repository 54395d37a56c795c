"""The service as a queue, simulated: what becomes of a rate of requests on so many cores, from what each step costs.

Cores are shared by all that runs, as an operating system does it. The rest is the service's: pictures are let in if
they can be answered in time (`service.admission`), slots are given to what `service.scheduling` would start, and
decoded pictures run in batches (`service.batching`).
"""

import random
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from statistics import mean, quantiles
from typing import Any

import simpy

from service.admission import ServiceRate
from service.tuning import BatchTime

Process = Generator[simpy.Event, Any, None]


@dataclass(frozen=True)
class Step:
    """CPU seconds for one request."""

    woken: float
    """After a rest, in cold caches."""
    going_on: float
    """Where all cores are busy."""


FREE = Step(0, 0)


@dataclass(frozen=True)
class Costs:
    """CPU seconds."""

    http: Step
    """The event loop's: reading, handing over to the decoder and back, answering, counting."""
    around_run: Step
    """In the thread that runs a batch, beside the run itself: of a picture, or of a batch that finds cold caches."""
    decode: Step
    """Of one picture, in the decoder's process."""
    curve: Sequence[BatchTime]
    """Of batches by their size."""
    client: Step = FREE
    """Of whoever sends one request, if that is on the same cores."""
    variation: Sequence[float] = (1.0,)
    """How many times as long as the mean each request takes; they come in turn. A batch takes the mean of its own."""
    used: float = 1.0
    """Share of the time for which clients without end keep the cores at work; the rest goes in handing over."""

    def run(self, batch: int) -> float:
        """Of a batch, between the sizes that were timed in proportion."""
        below = max((each for each in self.curve if each.batch <= batch), key=lambda each: each.batch)
        above = min((each for each in self.curve if each.batch >= batch), key=lambda each: each.batch, default=below)
        share = 0.0 if above.batch == below.batch else (batch - below.batch) / (above.batch - below.batch)
        return below.seconds + share * (above.seconds - below.seconds)

    def each(self, batch: int) -> float:
        """Of one picture in batches of that size, with everything, where all cores are busy."""
        steps = self.http, self.decode, self.client, self.around_run
        return sum(step.going_on for step in steps) + self.run(batch) / batch


@dataclass(frozen=True)
class Setup:
    """What is asked for, and of what."""

    cores: int
    batch_limit: int
    rate: float
    """Requests a second, of one picture each, at random times (Poisson)."""
    seconds: float
    deadline: float
    """Seconds."""
    max_queue: int = 512
    seed: int = 1


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
    """Processor sharing: each of k jobs goes on at min(1, cores / k) of a core's speed, as far as that can be used."""

    def __init__(self, env: simpy.Environment, cores: int, used: float) -> None:
        self._env = env
        self._cores = cores
        self._used = used
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
        return self._used * min(1.0, self._cores / len(self._jobs))

    @property
    def rest(self) -> bool:
        """Whether one of them has nothing to do."""
        return len(self._jobs) < self._cores

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
        self._cores = _Cores(env, setup.cores, costs.used)
        self._loop = simpy.Resource(env)
        self._client = simpy.Resource(env)
        self._to_decode: deque[_Picture] = deque()
        self._to_run: deque[_Picture] = deque()
        self._idle: list[simpy.Event] = []
        self._variation = cycle(costs.variation)
        self._decoding = self._running = 0
        self._in_work = 0
        self._full_batch = costs.run(setup.batch_limit)
        self._rate = ServiceRate(costs.used * setup.cores / costs.each(setup.batch_limit), setup.cores + 1)
        for _ in range(setup.cores + 1):
            env.process(self._slot())

    def arrivals(self) -> Process:
        chance = random.Random(self._setup.seed)  # noqa: S311 - no secret, and the same in every run
        while self._env.now < self._setup.seconds:
            yield self._env.timeout(chance.expovariate(self._setup.rate))
            self._env.process(self._request())

    def _request(self) -> Process:
        came = self._env.now
        yield from self._turn(self._client, self._costs.client, 1 / 2)
        yield from self._turn(self._loop, self._costs.http, 1 / 3)
        needed = (self._in_work + 1) / self._rate.per_second + 2 * self._full_batch
        busy = self._in_work > self._rate.busy
        if self._in_work >= self._setup.max_queue or (busy and needed > self._setup.deadline):
            self._outcome.refused += 1
            return
        self._in_work += 1
        picture = _Picture(came, self._env.event(), next(self._variation))
        self._to_decode.append(picture)
        self._wake()
        yield picture.ran
        self._in_work -= 1
        self._rate.finished(self._in_work, self._env.now)
        yield from self._turn(self._loop, self._costs.http, 1 / 3)
        yield from self._turn(self._client, self._costs.client, 1 / 2)
        took = self._env.now - came
        if took > self._setup.deadline:
            self._outcome.late += 1
        else:
            self._outcome.answered.append(took)

    def _turn(self, thread: simpy.Resource, step: Step, share: float) -> Process:
        """A share of the work of what does one thing after another."""
        woken = thread.count == 0 and self._cores.rest
        with thread.request() as turn:
            yield turn
            yield self._cores.work(share * (step.woken if woken else step.going_on))

    def _slot(self) -> Process:
        while True:
            able = self._to_run and self._running < self._setup.cores
            due = able and (len(self._to_run) >= self._setup.batch_limit or self._env.now >= self._to_run[0].due)
            gathering = self._to_decode or self._decoding + self._running >= self._setup.cores
            if self._to_decode and not due:
                picture = self._to_decode.popleft()
                decode = self._costs.decode.woken if self._cores.rest else self._costs.decode.going_on
                self._decoding += 1
                yield self._cores.work(picture.variation * decode)
                yield from self._turn(self._loop, self._costs.http, 1 / 3)
                self._decoding -= 1
                picture.due = self._env.now + self._full_batch
                self._to_run.append(picture)
                self._wake()
            elif due or (able and not gathering):
                count = min(len(self._to_run), self._setup.batch_limit)
                free = 1 + min(len(self._idle), self._setup.cores - self._running - 1)
                batch = [self._to_run.popleft() for _ in range(-(-count // free))]
                around = self._costs.around_run
                more = len(batch) * around.going_on
                if not self._running and self._cores.rest:
                    more = max(more, around.woken)
                self._running += 1
                self._wake()
                varied = mean(picture.variation for picture in batch)
                yield self._cores.work(varied * (self._costs.run(len(batch)) + more))
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
