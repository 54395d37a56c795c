"""From a model's file to a model that can be served: opened on every device, proven, measured and warmed."""

import logging
from dataclasses import dataclass
from functools import partial

from service.admission import Admission, ServiceRate
from service.batching import BatchQueue
from service.errors import DeviceUnavailable, UnusableModel
from service.metrics import Metrics
from service.models import ServedModel
from service.proof import require_same_answers
from service.providers import CPU, GpuOptions
from service.repository import ModelFile
from service.running import Runner
from service.scheduling import Scheduler
from service.session import Session
from service.settings import Settings
from service.threads import in_thread
from service.tuning import BatchTime, batch_sizes, best_limit, measure_curve

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Opened:
    """A proven, measured and warmed session."""

    device: str
    session: Session
    instances: int
    """Runs at once."""
    curve: list[BatchTime]
    limit: int
    """Most pictures in one run."""

    @property
    def sizes(self) -> list[int] | None:
        """The only batch sizes to run, others being padded to the next; None: any."""
        return None if self.session.provider == CPU else list(batch_sizes(self.limit))

    @property
    def at_limit(self) -> BatchTime:
        return next(time for time in self.curve if time.batch == self.limit)


async def load_model(file: ModelFile, settings: Settings, scheduler: Scheduler, metrics: Metrics) -> ServedModel:
    """Open a model, check its proof, measure and warm it.

    Args:
        file: which.
        settings: devices, instances and batch sizes.
        scheduler: what takes its batches.
        metrics: where the model's series are.

    Raises:
        UnusableModel: it cannot be read, is none of the exporter's, is not proven, or fails to run.
        DeviceUnavailable: a device that was asked for does not work.
    """
    opened = await in_thread(partial(open_sessions, file, settings), "load")
    first, limit = opened[0], opened[0].limit
    queue = BatchQueue(limit=limit, patience=first.at_limit.seconds)
    model_metrics = metrics.of_model(file.name, file.version, first.session.artifact.labels)
    runners: list[Runner] = []
    for each in opened:
        on_cpu = each.session.provider == CPU
        if not on_cpu:
            metrics.watch_gpus()
        runner = Runner(
            queue,
            each.session,
            capacity=each.instances,
            threads=settings.threads,
            sizes=each.sizes,
            reopen=partial(_reopen, file, each.device, settings, each.session),
            name=file.name,
            metrics=model_metrics,
        )
        scheduler.attach(runner, on_cores=on_cpu)
        runners.append(runner)
    rate = ServiceRate(sum(each.at_limit.pictures_per_second for each in opened), scheduler.slots)
    logger.info(
        "%s version %d on %s: batches of up to %d, %.0f pictures/s without decoding",
        file.name, file.version, first.session.provider, limit, rate.per_second,
    )  # fmt: skip
    return ServedModel(
        file=file,
        artifact=first.session.artifact,
        curve=first.curve,
        queue=queue,
        runners=runners,
        scheduler=scheduler,
        # A picture may just miss a batch, and then waits for two.
        admission=Admission(file.name, settings.max_queue, rate, margin=2 * first.at_limit.seconds),
        metrics=model_metrics,
    )


def open_sessions(file: ModelFile, settings: Settings) -> list[Opened]:
    """A session for every device, and on a GPU for every instance; the first one's curve decides the batch limit.

    Raises as `load_model` does.
    """
    opened: list[Opened] = []
    for device in settings.device.split(","):
        session = _open_proven(file, device, settings)
        on_cpu = session.provider == CPU
        cpu_instances = settings.instances or max(1, settings.cores // settings.threads)
        sessions = [session]
        if not on_cpu:
            sessions += [_open_proven(file, device, settings) for _ in range((settings.instances or 1) - 1)]
        for each in sessions:
            limit = opened[0].limit if opened else settings.batch_limit
            opened.append(_measured(file, device, each, cpu_instances if on_cpu else 1, limit, settings))
    return opened


def _open_proven(file: ModelFile, device: str, settings: Settings) -> Session:
    largest = settings.batch_limit or settings.max_batch
    gpu = GpuOptions(settings.tf32, settings.cuda_graphs, settings.engine_cache, largest)
    session = Session.open(file.path, device=device, threads=settings.threads, gpu=gpu)
    session.artifact.require_parity(str(file.path))
    if session.provider != CPU:
        require_same_answers(session, file.path, list(batch_sizes(largest)))
    return session


def _measured(
    file: ModelFile, device: str, session: Session, instances: int, limit: int | None, settings: Settings
) -> Opened:
    """Warm every batch size up to `limit`, or look for the best limit."""
    budget = settings.latency_budget_ms / 1000
    try:
        curve = measure_curve(
            session,
            instances=instances,
            largest=limit or settings.max_batch,
            budget=None if limit else budget,
            in_caller=session.provider == CPU and settings.threads == 1,
        )
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise UnusableModel(f"{file.path} failed to run batches of blank pictures: {error}") from error
    if session.provider == CPU:
        session.release_memory()
    return Opened(device, session, instances, curve, limit or best_limit(curve, budget))


def _reopen(file: ModelFile, device: str, settings: Settings, before: Session) -> Session:
    session = _open_proven(file, device, settings)
    if session.artifact != before.artifact:
        raise UnusableModel(f"{file.path} is another model now; reload the repository")
    if session.provider != before.provider:
        raise DeviceUnavailable(f"{file.path} ran on {before.provider}, which does not work any more")
    return session
