"""Metrics of several replicas as one text."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from cluster.everywhere import Together


def exposed(count: float, level: float, seconds: float) -> str:
    registry = CollectorRegistry()
    Counter("pictures", "How many.", ["model"], registry=registry).labels('a "b"\n').inc(count)
    Gauge("ready", "Whether.", registry=registry).set(level)
    Histogram("seconds", "How long.", registry=registry, buckets=(0.1, 1)).observe(seconds)
    return generate_latest(registry).decode()


def samples(text: str) -> list[Sample]:
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


NUMBERS = st.floats(0, 1e6)


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=4))
def test_every_sample_is_there_once_with_its_replica(replicas: list[tuple[float, float, float]]) -> None:
    texts = [(f"replica-{place}", exposed(*numbers)) for place, numbers in enumerate(replicas)]

    together = generate_latest(Together(texts)).decode()

    expected = [
        (sample.name, {**sample.labels, "replica": name}, sample.value)
        for name, text in texts
        for sample in samples(text)
    ]
    found = [(sample.name, sample.labels, sample.value) for sample in samples(together)]
    assert sorted(found, key=str) == sorted(expected, key=str)
    assert together.count("# TYPE pictures_total counter") == 1
