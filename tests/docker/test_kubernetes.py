"""The manifests for Kubernetes: valid by the published schemas, and of one mind with the code."""

import importlib
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.prometheus_operator.v1 import ServiceMonitor
from prometheus_client.parser import text_string_to_metric_families

from service.admin import ADMINISTRATION
from service.settings import Settings
from tests.conftest import REPOSITORY
from tests.service import colours
from tests.service.live import classify, live_service
from tests.service.pictures import png

MANIFESTS = REPOSITORY / "docker" / "kubernetes"

OVERLAYS = ("overlays/cpu", "overlays/gpu")

OLDEST, NEWEST = "1.30", "1.36"
"""Versions of Kubernetes; `sleep` as a preStop hook came with the oldest."""

KSERVE = Path(sys.prefix) / "kserve"
"""Where `make` puts KServe's SDK, whose models are its API's; the rest needs older libraries than are used here."""

Document = dict[str, Any]


def rendered(folder: str) -> list[Document]:
    """What `kubectl apply -k` would apply."""
    done = subprocess.run(
        [Path(sys.prefix) / "bin" / "kubectl", "kustomize", MANIFESTS / folder],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return list(yaml.safe_load_all(done.stdout))


def one(documents: list[Document], kind: str) -> Document:
    (found,) = [each for each in documents if each["kind"] == kind]
    return found


def container(documents: list[Document]) -> Document:
    """Of the deployment, or of the serving runtime."""
    for document in documents:
        if document["kind"] == "ServingRuntime":
            (found,) = document["spec"]["containers"]
            return dict(found)
    (found,) = one(documents, "Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(found)


def environment(documents: list[Document]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container(documents)["env"]}


def settings(documents: list[Document]) -> Settings:
    """What the container makes of its environment; a wrong name or value raises."""
    prefix = str(Settings.model_config["env_prefix"])
    values: dict[str, Any] = {}
    for name, value in environment(documents).items():
        assert name.startswith(prefix)
        values[name.removeprefix(prefix).lower()] = value
    return Settings(**values)


def probes(documents: list[Document]) -> dict[str, Document]:
    return {kind: container(documents)[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness")}


def group_of_image() -> int:
    """Whom files of a volume have to be readable for."""
    user = re.search(r"^USER \d+:(\d+)$", (REPOSITORY / "docker" / "Dockerfile").read_text(), re.MULTILINE)
    assert user
    return int(user[1])


@pytest.fixture(scope="module", params=[*OVERLAYS, "kserve"])
def manifests(request: pytest.FixtureRequest) -> list[Document]:
    return rendered(request.param)


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> list[Document]:
    return rendered(request.param)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Has answered a picture."""
    models = tmp_path_factory.mktemp("models")
    colours.save_served(models)
    with live_service(models) as client:
        classify(client, png("red"))
        yield client


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_knows_every_field(overlay: list[Document], version: str) -> None:
    kinds = set()
    for document in overlay:
        if document["kind"] != "ServiceMonitor":
            kubernetes_validate.validate(document, version, strict=True)
            kinds.add(document["kind"])
    assert kinds == {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy", "HorizontalPodAutoscaler"}


def test_a_field_that_kubernetes_does_not_know_is_seen(overlay: list[Document]) -> None:
    wrong = {**one(overlay, "Service"), "spec": {"prots": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, NEWEST, strict=True)


def test_the_prometheus_operator_knows_every_field(overlay: list[Document]) -> None:
    document = one(overlay, "ServiceMonitor")

    known = ServiceMonitor.model_validate(document).model_dump(by_alias=True, exclude_none=True)

    assert known == document


def kserve_type(name: str) -> Any:
    """A class of KServe's SDK, without what the package itself imports."""
    if str(KSERVE) not in sys.path:
        sys.path.insert(0, str(KSERVE))
        package = types.ModuleType("kserve")
        package.__path__ = [str(KSERVE / "kserve")]
        sys.modules["kserve"] = package
        configuration = types.ModuleType("kserve.configuration")
        vars(configuration)["Configuration"] = object
        sys.modules["kserve.configuration"] = configuration
        models = types.ModuleType("kserve.models")
        models.__path__ = [str(KSERVE / "kserve" / "models")]
        sys.modules["kserve.models"] = models
    module = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return getattr(importlib.import_module(f"kserve.models.{module}"), name)


def unknown_fields(value: Any, type_name: str, place: str) -> Iterator[str]:
    """The places of fields that KServe's API does not have."""
    inner = re.fullmatch(r"list\[(.*)\]", type_name)
    if inner:
        for number, each in enumerate(value):
            yield from unknown_fields(each, inner[1], f"{place}[{number}]")
    elif type_name == "V1Container":
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [value]}}
        kubernetes_validate.validate(pod, NEWEST, strict=True)
    elif re.match("V1(alpha|beta)", type_name):
        kind = kserve_type(type_name)
        python_names = {field: name for name, field in kind.attribute_map.items()}
        for field, each in value.items():
            if field not in python_names:
                yield f"{place}.{field}"
            else:
                yield from unknown_fields(each, kind.openapi_types[python_names[field]], f"{place}.{field}")


@pytest.mark.skipif(not KSERVE.exists(), reason="KServe's SDK is not there; make puts it into the environment")
def test_kserve_knows_every_field() -> None:
    documents = rendered("kserve")

    for kind, version in (("ServingRuntime", "V1alpha1"), ("InferenceService", "V1beta1")):
        document = one(documents, kind)
        assert not list(unknown_fields(document, version + kind, kind))
        wrong = {**document, "spec": {**document["spec"], "protocolVersoins": []}}
        assert list(unknown_fields(wrong, version + kind, kind)) == [f"{kind}.spec.protocolVersoins"]


def test_the_service_takes_the_environment(manifests: list[Document]) -> None:
    assert settings(manifests)


def test_it_listens_where_it_is_asked(manifests: list[Document]) -> None:
    image = (REPOSITORY / "docker" / "Dockerfile").read_text()
    usual = re.search(r"STRIPMLP_PORT=(\d+)", image)
    assert usual
    main = int(environment(manifests).get("STRIPMLP_PORT", usual[1]))
    ports = {each["name"]: each["containerPort"] for each in container(manifests)["ports"]}
    asked = {probe["httpGet"]["port"] for probe in probes(manifests).values()}
    admin = settings(manifests).admin_port

    assert {ports.get(port, port) for port in asked} == {main}
    assert ports == ({"http1": main} if admin is None else {"http": main, "admin": admin})


def test_what_leads_to_it_has_its_ports_and_labels(overlay: list[Document]) -> None:
    deployment, policy, service = (one(overlay, kind) for kind in ("Deployment", "NetworkPolicy", "Service"))
    monitor, budget = one(overlay, "ServiceMonitor"), one(overlay, "PodDisruptionBudget")
    labels = deployment["spec"]["template"]["metadata"]["labels"]

    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    assert policy["spec"]["podSelector"]["matchLabels"] == budget["spec"]["selector"]["matchLabels"] == labels
    assert monitor["spec"]["selector"]["matchLabels"] == service["metadata"]["labels"]
    assert {each["name"]: each["targetPort"] for each in service["spec"]["ports"]} == {"http": "http", "admin": "admin"}
    everybody, monitoring = policy["spec"]["ingress"]
    assert everybody == {"ports": [{"port": "http"}]}
    assert monitoring["from"]
    assert monitoring["ports"] == [{"port": "admin"}]
    (endpoint,) = monitor["spec"]["endpoints"]
    (scraped,) = [each for each in service["spec"]["ports"] if each["name"] == endpoint["port"]]
    assert scraped["port"] == settings(overlay).admin_port
    assert endpoint["path"] in ADMINISTRATION
    target = one(overlay, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])


def test_kserve_has_the_runtime_and_its_protocol(service: httpx.Client) -> None:
    documents = rendered("kserve")
    runtime, inference = one(documents, "ServingRuntime"), one(documents, "InferenceService")
    model = inference["spec"]["predictor"]["model"]
    scraped = runtime["spec"]["annotations"]
    claim = yaml.safe_load((MANIFESTS / "shared-models" / "claim.yaml").read_text())

    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] in {each["name"] for each in runtime["spec"]["supportedModelFormats"]}
    assert runtime["spec"]["protocolVersions"] == [model["protocolVersion"]] == ["v2"]
    assert service.get("/v2").json()["name"] == "strip-mlp-serving"
    assert scraped["prometheus.kserve.io/port"] == environment(documents)["STRIPMLP_PORT"]
    assert scraped["prometheus.kserve.io/path"] in ADMINISTRATION
    assert inference["spec"]["predictor"]["securityContext"]["fsGroup"] == group_of_image()
    assert inference["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Standard"  # or no preStop
    assert model["storageUri"] == f"pvc://{claim['metadata']['name']}"


def test_its_probes_are_answered(manifests: list[Document], service: httpx.Client) -> None:
    for kind, probe in probes(manifests).items():
        assert service.get(probe["httpGet"]["path"]).status_code == 200, kind


def test_metrics_that_it_is_scaled_by_are_there(overlay: list[Document], service: httpx.Client) -> None:
    exposed = {family.name for family in text_string_to_metric_families(service.get("/metrics").text)}
    rules = yaml.safe_load((MANIFESTS / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    adapted = {re.split("{", rule["seriesQuery"])[0] for rule in rules}
    scaled_by = one(overlay, "HorizontalPodAutoscaler")["spec"]["metrics"]
    pods = [each["pods"] for each in scaled_by if each["type"] == "Pods"]

    assert {each["metric"]["name"] for each in pods} == adapted
    assert adapted <= exposed
    assert int(pods[0]["target"]["averageValue"]) < Settings().max_queue


def test_kubernetes_waits_for_the_drain(manifests: list[Document]) -> None:
    asked = settings(manifests)
    before = container(manifests)["lifecycle"]["preStop"]["sleep"]["seconds"]
    unready = probes(manifests)["readiness"]
    if any(each["kind"] == "Deployment" for each in manifests):
        pod = one(manifests, "Deployment")["spec"]["template"]["spec"]
    else:
        pod = one(manifests, "InferenceService")["spec"]["predictor"]

    assert unready["periodSeconds"] * unready["failureThreshold"] <= before + asked.drain_seconds
    assert pod["terminationGracePeriodSeconds"] >= before + asked.drain_seconds + asked.shutdown_seconds + 5


def test_models_of_a_volume_take_the_place_of_the_images(tmp_path: Path) -> None:
    overlay = MANIFESTS / "overlays" / "cpu"
    (tmp_path / "kustomization.yaml").write_text(
        f"resources: [{'../' * 20}{overlay.relative_to('/')}]\n"
        f"components: [{'../' * 20}{(MANIFESTS / 'shared-models').relative_to('/')}]\n"
    )

    documents = rendered(str(tmp_path))

    assert one(documents, "Deployment")["spec"]["template"]["spec"]["securityContext"]["fsGroup"] == group_of_image()
    mounts = {each["name"]: each for each in container(documents)["volumeMounts"]}
    assert mounts["models"]["mountPath"] == str(settings(documents).models)
    claim = one(documents, "PersistentVolumeClaim")
    volumes = one(documents, "Deployment")["spec"]["template"]["spec"]["volumes"]
    assert {"claimName": claim["metadata"]["name"], "readOnly": True} in [
        each.get("persistentVolumeClaim") for each in volumes
    ]
    for document in documents:
        if document["kind"] != "ServiceMonitor":
            kubernetes_validate.validate(document, NEWEST, strict=True)
