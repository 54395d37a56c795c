"""The scrape configuration, the alerts and the dashboard, on a real Prometheus that scrapes a service under load."""

import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from service.metrics import Metrics
from service.preprocessing import Pixels
from service.session import Scores, Session
from tests.conftest import REPOSITORY
from tests.docker.prometheus import CONFIGURATION, Prometheus, prometheus_of, promtool
from tests.service import colours
from tests.service.live import await_true, classify, live_service
from tests.service.pictures import png
from tests.service.test_gpu import Nvml

GRAFANA = REPOSITORY / "docker" / "grafana"

DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "strip-mlp.json").read_text("utf-8"))

PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((CONFIGURATION / "alerts.yml").read_text("utf-8"))["groups"]
    for rule in group["rules"]
]

SELECTOR = re.compile(r"\b((?:stripmlp|process)_\w+|up\b)(\{[^}]*\})?")

MATCHED = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
"""The label of each matcher in a selector."""

GROUPED = re.compile(r"\b(?:by|on)\s*\(([^)]*)\)")
"""The labels that series are summed or paired by."""

NAMED = re.compile(r"\{\{\s*(\w+)\s*\}\}")
"""The labels in the name of a line."""

COMPARISON = re.compile(r"\s*(==|>|<)\s*[\d.]+")

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def as_grafana_asks(expression: str, instance: str) -> str:
    """With Grafana's variables filled in, by names: "all" would match series that lack the label, too."""
    return expression.replace("$__rate_interval", "30s").replace("$instance", instance).replace("$model", "colours")


def assert_names_exist(prometheus: Prometheus, expression: str) -> None:
    """A label that no series has is no error to Prometheus; it matches, or sums up, everything."""
    selectors = SELECTOR.findall(expression)
    assert selectors
    grouped = {label.strip() for labels in GROUPED.findall(expression) for label in labels.split(",")} - {""}
    for metric, matchers in selectors:
        series = prometheus.query(metric + matchers)
        assert series, metric + matchers
        for each in series:
            assert each["metric"].keys() >= grouped | set(MATCHED.findall(matchers)), (expression, each["metric"])


def put_under_load(client: httpx.Client, until: threading.Event) -> None:
    """Requests of every outcome, one after the other."""
    while not until.is_set():
        with httpx.Client(base_url=client.base_url, timeout=30) as other:
            classify(other, png("red"), png("blue"), b"no picture")
            other.post("/classify", content=png("red"), headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"})
            other.post("/classify", content=png("red"), headers={"X-Request-Timeout-Ms": "1"})


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Prometheus, httpx.Client]]:
    """A Prometheus that has scraped a service under load a few times, and the service."""
    models = tmp_path_factory.mktemp("models")
    colours.save_served(models)
    run, start = Session.run, Metrics.__init__

    def slow(session: Session, pixels: Pixels) -> Scores:
        time.sleep(0.02)  # the work that a larger model would do, so that a queue forms
        return run(session, pixels)

    def start_with_gpus(metrics: Metrics) -> None:
        start(metrics)
        metrics.watch_gpus()  # as when a session runs on CUDA

    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(Session, "run", slow)
        patch.setattr(Metrics, "__init__", start_with_gpus)
        patch.setitem(sys.modules, "pynvml", Nvml())
        client = stack.enter_context(
            live_service(models, max_queue=4, max_images=4, batch_limit=2, instances=1, admin_token="t")
        )
        prometheus = stack.enter_context(prometheus_of(address(client), tmp_path_factory.mktemp("prometheus")))
        bad = models / "colours" / "2" / "model.onnx"
        bad.parent.mkdir()
        bad.write_bytes(b"no model")
        client.post("/models/reload", headers={"Authorization": "Bearer t"})
        pool, over = stack.enter_context(ThreadPoolExecutor(6)), threading.Event()
        stack.callback(over.set)
        loads = [pool.submit(put_under_load, client, over) for _ in range(6)]
        for outcome in ("ok", "invalid", "refused", "expired"):
            await_true(partial(grows, prometheus, outcome))
        await_true(lambda: len(prometheus.query('count_over_time(up{job="strip-mlp"}[1m]) >= 5')) == 1)
        yield prometheus, client
        over.set()
        for load in loads:
            load.result()


def address(client: httpx.Client) -> str:
    return f"{client.base_url.host}:{client.base_url.port}"


def grows(prometheus: Prometheus, outcome: str) -> bool:
    return len(prometheus.query(f'rate(stripmlp_images_total{{outcome="{outcome}"}}[30s]) > 0')) > 0


def test_promtool_accepts_the_configuration_and_the_rules() -> None:
    said = promtool("check", "config", str(CONFIGURATION / "prometheus.yml"))

    assert said.returncode == 0, said.stderr
    assert f"{len(RULES)} rules found" in said.stdout


def test_every_alert_fires_when_it_should_and_keeps_still_otherwise() -> None:
    said = promtool("test", "rules", str(CONFIGURATION / "alerts_test.yml"))

    assert said.returncode == 0, said.stdout + said.stderr
    tests = yaml.safe_load((CONFIGURATION / "alerts_test.yml").read_text("utf-8"))["tests"]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case.get("exp_alerts")}
    silent = {case["alertname"] for test in tests for case in test["alert_rule_test"] if not case.get("exp_alerts")}
    assert fired == silent == {rule["alert"] for rule in RULES}


def test_promtool_finds_no_fault_with_the_metrics(scraped: tuple[Prometheus, httpx.Client]) -> None:
    _, client = scraped

    said = promtool("check", "metrics", text=client.get("/metrics").text)

    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")


@pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])
def test_every_expression_of_the_dashboard_has_data(
    scraped: tuple[Prometheus, httpx.Client], panel: dict[str, Any]
) -> None:
    prometheus, client = scraped

    assert panel["targets"]
    for target in panel["targets"]:
        expression = as_grafana_asks(target["expr"], address(client))
        samples = prometheus.query(expression)
        assert any(sample["value"][1] != "NaN" for sample in samples), expression
        assert_names_exist(prometheus, expression)
        for sample in samples:
            assert sample["metric"].keys() >= set(NAMED.findall(target["legendFormat"])), (expression, sample["metric"])


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_every_alert_looks_at_data_that_there_is(
    scraped: tuple[Prometheus, httpx.Client], rule: dict[str, Any]
) -> None:
    """What an alert compares is there; whether it then fires is what promtool's tests are for.

    All but one are empty now, as all is well: without the comparisons, and with `and` for `unless`, they are not.
    """
    prometheus, _ = scraped
    expression = rule["expr"]

    prometheus.query(expression)  # which can be evaluated, whatever its value
    samples = prometheus.query(COMPARISON.sub("", expression).replace("unless", "and"))
    assert any(sample["value"][1] != "NaN" for sample in samples)
    assert_names_exist(prometheus, expression)


def test_the_failed_reload_is_an_alert(scraped: tuple[Prometheus, httpx.Client]) -> None:
    prometheus, _ = scraped

    await_true(lambda: bool(prometheus.query('ALERTS{alertname="StripMlpReloadFailed", model="colours"}')))
    for other in ("StripMlpDown", "StripMlpNotReady", "StripMlpCpuFallback", "StripMlpParityMissing"):
        assert not prometheus.query(f'ALERTS{{alertname="{other}"}}')


@pytest.mark.parametrize("variable", [each for each in DASHBOARD["templating"]["list"] if each["type"] == "query"])
def test_the_dashboards_variables_have_values(
    scraped: tuple[Prometheus, httpx.Client], variable: dict[str, Any]
) -> None:
    prometheus, _ = scraped
    ((metric, label),) = re.findall(r"^label_values\((\w+), (\w+)\)$", variable["definition"])

    assert variable["query"]["query"] == variable["definition"]
    assert prometheus.query(f"count by ({label}) ({metric})")[0]["metric"][label]


def test_prometheus_keeps_the_traces_that_clients_name(scraped: tuple[Prometheus, httpx.Client]) -> None:
    prometheus, _ = scraped

    found = prometheus.exemplars('stripmlp_request_duration_seconds_bucket{endpoint="/classify"}')

    assert {exemplar["labels"]["trace_id"] for series in found for exemplar in series["exemplars"]} == {TRACE}


def test_every_panel_says_what_it_shows() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
    places = [
        (panel["gridPos"]["x"] + dx, panel["gridPos"]["y"] + dy)
        for panel in DASHBOARD["panels"]
        for dx in range(panel["gridPos"]["w"])
        for dy in range(panel["gridPos"]["h"])
    ]
    assert len(places) == len(set(places))
    assert max(x for x, _ in places) < 24


def test_grafana_finds_the_data_source_and_the_dashboard() -> None:
    compose = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text("utf-8"))["services"]
    mounts = dict(mount.split(":")[:2] for mount in compose["grafana"]["volumes"])

    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text("utf-8"))["datasources"]
    assert source["url"] == "http://prometheus:9090"
    scraping = yaml.safe_load((CONFIGURATION / "prometheus.yml").read_text("utf-8"))["global"]
    assert source["jsonData"]["timeInterval"] == scraping["scrape_interval"]  # else rates have gaps
    assert "prometheus" in compose
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/strip-mlp.yml").read_text("utf-8"))["providers"]
    assert mounts["./docker/grafana/dashboards"] == provider["options"]["path"]
    assert mounts["./docker/grafana/provisioning"] == "/etc/grafana/provisioning"
    home = Path(compose["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (GRAFANA / "dashboards" / home.name).exists()
    assert str(home.parent) == provider["options"]["path"]
