"""Manifests on a real API server: the launcher's service account has exactly the permissions that it uses."""

import json
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client
from kubernetes.client import ApiException, V1ObjectMeta, V1Pod
from kubernetes.client.rest import RESTClientObject

from components.train import kubernetes_client as module
from components.train.backends import BACKENDS, fill, job_template
from components.train.kubernetes_client import KubernetesClient
from tests.apiserver import ApiServer
from tests.conftest import ROOT
from tests.k8s.rendering import VARIANTS, kubectl, objects, overlay, render
from trm.config.cluster import ClusterParams, TrainJobParams
from trm.utils.errors import UserError

pytestmark = pytest.mark.slow
Request = tuple[str, str, str]
"""Verb, API group, resource."""
ACCOUNT = "api/v1/namespaces/trm/serviceaccounts/trm-launcher"
BOUND = (
    ("create", "kubeflow.org", "pytorchjobs"),
    ("create", "trainer.kubeflow.org", "trainjobs"),
    ("create", "argoproj.io", "workflowtaskresults"),
    ("list", "", "nodes"),
)
"""One permission of each role."""
AUTHENTICATED = {"selfsubjectaccessreviews", "selfsubjectrulesreviews"}
"""Resources that all authenticated users may create."""


@pytest.fixture(scope="module")
def applied(apiserver: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> ApiServer:
    """The server with overlay `dev` applied, Kubeflow's namespace and that of another team."""
    ran = kubectl("apply", "-k", overlay("dev", tmp_path_factory.mktemp("dev")), kubeconfig=apiserver.kubeconfig())
    assert (ran.returncode, ran.stderr) == (0, "")
    for name in ("kubeflow", "team"):  # a dry run creates no namespace
        made = kubectl("create", "namespace", name, "--save-config", kubeconfig=apiserver.kubeconfig())
        assert made.returncode == 0, made.stderr
    deadline = time.monotonic() + 30
    while not all(_is_allowed(apiserver, request) for request in BOUND):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return apiserver


def _is_allowed(server: ApiServer, request: Request) -> bool:
    """Return True if the authorizer allows the request of the service account."""
    attributes = {"namespace": "trm"} | dict(zip(("verb", "group", "resource"), request, strict=True))
    spec = {"user": "system:serviceaccount:trm:trm-launcher", "resourceAttributes": attributes}
    return server.post("apis/authorization.k8s.io/v1/subjectaccessreviews", {"spec": spec}).json()["status"]["allowed"]


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
def launcher(
    request: pytest.FixtureRequest, applied: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[KubernetesClient]:
    """Client with a token of the service account."""
    wanted = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}}
    answer = applied.post(f"{ACCOUNT}/token", wanted)
    assert answer.status_code == 201, answer.text
    config = json.loads(applied.kubeconfig("unprivileged", "trm").read_text())
    config["users"] = [{"name": "unprivileged", "user": {"token": answer.json()["status"]["token"]}}]
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.delenv("NAMESPACE", raising=False)
    # The kubernetes package reads KUBECONFIG at import.
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    with KubernetesClient("trm", request.param) as kubernetes:
        yield kubernetes


@pytest.fixture
def responses(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Request, int]]:
    """Requests to Kubernetes during the test, with the status codes of their responses."""
    seen: list[tuple[Request, int]] = []
    send: Any = RESTClientObject.request

    def recorded(self: object, method: str, url: str, **more: Any) -> object:  # noqa: ANN401 - forwarded arguments
        try:
            response = send(self, method, url, **more)
        except ApiException as error:
            seen.append((parse_request(method, url, more.get("query_params")), error.status or 0))
            raise
        seen.append((parse_request(method, url, more.get("query_params")), response.status))
        return response

    monkeypatch.setattr(RESTClientObject, "request", recorded)
    return seen


def parse_request(method: str, url: str, query: list[tuple[str, str]] | None) -> Request:
    """Return verb, API group and resource of a request, as the authorizer sees them."""
    path = re.fullmatch(
        r"https://[^/]+/apis?/(?:(?P<group>[^/]+\.[^/]+)/)?v1(?:alpha1)?/(?:namespaces/[^/]+/)?(?P<resource>[a-z]+)"
        r"(?:/(?P<name>[^/]+)(?P<below>/[a-z]+)?)?",
        url,
    )
    assert path, url
    watches = ("watch", "true") in [(key, str(value).lower()) for key, value in query or ()]
    one = {"GET": "get", "POST": "create", "DELETE": "delete", "PUT": "update", "PATCH": "patch"}
    many = {"GET": "watch" if watches else "list", "POST": "create", "DELETE": "deletecollection"}
    verb = (one if path["name"] else many)[method]
    return verb, path["group"] or "", path["resource"] + (path["below"] or "")


def job(backend: str = "pytorchjob") -> dict[str, Any]:
    settings = TrainJobParams.model_validate({"backend": backend, "max_workers": 1})
    template = job_template(ClusterParams(train_job=settings))
    job = fill(template, ["train"], "a" * 64, "s3://a/b", {"name": "p", "uid": "u"})
    job["metadata"].pop("namespace", None)
    return job


def call_all_methods(launcher: KubernetesClient) -> None:
    """Call each method of the client once, with an existing job and pod."""
    manifest = job(launcher.backend.name)
    calls: dict[str, Callable[[dict[str, Any]], object]] = {
        "job": lambda found: launcher.job(found["metadata"]["name"]),
        "create": lambda found: launcher.create(manifest),
        "max_allocatable": lambda found: launcher.max_allocatable("nvidia.com/gpu", {"a": "b"}),
        "pods": launcher.pods,
        "events": lambda found: launcher.events(found, []),
        "runtime": lambda found: launcher.runtime("trm") if "runtimeRef" in found["spec"] else None,
        "has_pod": lambda found: launcher.has_pod(V1Pod(metadata=V1ObjectMeta(name="pod", uid="u"))),
        "log_tail": lambda found: launcher.log_tail("pod", True, 10),
        "stream_log": lambda found: list(launcher.stream_log("pod", datetime.now(UTC), 5)),
        "delete": launcher.delete,
        "set_retry_timeout": lambda found: launcher.set_retry_timeout(5),
        "reload_credentials": lambda found: launcher.reload_credentials(),
        "project_error": lambda found: launcher.project_error(ApiException(status=500)),
    }
    methods = {name for name, each in vars(KubernetesClient).items() if callable(each) and not name.startswith("_")}
    assert methods == set(calls)
    assert launcher.create(manifest)
    found = launcher.job(manifest["metadata"]["name"])
    assert found is not None
    for call in calls.values():
        call(found)
    assert launcher.job(manifest["metadata"]["name"]) is None


def create_pod(server: ApiServer) -> None:
    pod = {"metadata": {"name": "pod"}, "spec": {"containers": [{"name": "a", "image": "a"}]}}
    assert server.post("api/v1/namespaces/trm/pods", pod).status_code in (201, 409)


def role(name: str, kind: str = "Role") -> set[Request]:
    """Return the requests that a role of the manifests allows."""
    return _flat(objects((ROOT / "k8s/base/access.yaml").read_text())[kind, name]["rules"])


def launcher_roles() -> set[Request]:
    return role("trm-launcher") | role("trm-launcher-nodes", "ClusterRole")


def _flat(rules: list[dict[str, Any]]) -> set[Request]:
    return {
        (verb, group, resource + "".join(f"={name}" for name in rule.get("resourceNames") or ()))
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_api_server_accepts_all_objects(variant: str, applied: ApiServer, tmp_path: Path) -> None:
    """Except those of the Prometheus operator, whose definitions the server does not have."""
    rendered = [each for each in objects(render(variant)).values() if "monitoring.coreos.com" not in each["apiVersion"]]
    file = tmp_path / "objects.yaml"
    file.write_text(yaml.safe_dump_all(rendered))
    ran = kubectl("apply", "--dry-run=server", "-f", file, kubeconfig=applied.kubeconfig())
    assert (ran.returncode, ran.stderr) == (0, "")
    assert len(ran.stdout.splitlines()) == len(rendered)
    assert all(line.endswith("(server dry run)") for line in ran.stdout.splitlines())


def test_role_grants_exactly_the_requests_of_the_launcher(
    applied: ApiServer, launcher: KubernetesClient, responses: list[tuple[Request, int]]
) -> None:
    create_pod(applied)
    call_all_methods(launcher)
    assert [each for each in responses if each[1] in (401, 403)] == []
    others = {other.resource.group for other in BACKENDS} - {launcher.backend.resource.group}
    assert {each for each, _ in responses} == {each for each in launcher_roles() if each[1] not in others}


def test_only_the_client_module_calls_the_kubernetes_api() -> None:
    """The test above covers the requests of `KubernetesClient` only."""
    for file in (ROOT / "components").rglob("*.py"):
        if file != Path(str(module.__file__)):
            calls = re.findall(r"\b(?:CoreV1Api|CustomObjectsApi|DynamicClient|call_api|Watch)\b", file.read_text())
            assert calls == [], file


def test_effective_rules_of_the_service_account(launcher: KubernetesClient) -> None:
    """The roles of the manifests and the permissions of authenticated users, and no others."""
    api = client.AuthorizationV1Api(launcher.api)
    review: Any = api.create_self_subject_rules_review({"spec": {"namespace": "trm"}})
    rules: Any = client.ApiClient().sanitize_for_serialization(review.status.resource_rules)
    found = {each for each in _flat(rules) if each[2] not in AUTHENTICATED}
    assert found == launcher_roles() | role("trm-kubeflow")
    elsewhere: Any = api.create_self_subject_rules_review({"spec": {"namespace": "default"}})
    assert {name for rule in elsewhere.status.resource_rules for name in rule.resources} <= {*AUTHENTICATED, "nodes"}


@pytest.mark.parametrize(
    "attempt",
    [
        lambda core, custom: core.list_namespaced_secret("trm"),
        lambda core, custom: core.read_namespaced_secret("another", "trm"),
        lambda core, custom: core.read_namespaced_config_map("another", "trm"),
        lambda core, custom: core.list_namespaced_config_map("trm"),
        lambda core, custom: core.create_namespaced_secret("trm", {"metadata": {"name": "a"}}),
        lambda core, custom: core.create_namespaced_pod("trm", {"metadata": {"name": "a"}}),
        lambda core, custom: core.delete_namespaced_pod("pod", "trm"),
        lambda core, custom: core.connect_get_namespaced_pod_exec("pod", "trm", command="sh"),
        lambda core, custom: core.create_namespaced_service_account_token("trm-launcher", "trm", {"spec": {}}),
        lambda core, custom: core.list_namespaced_pod("default"),
        lambda core, custom: core.list_pod_for_all_namespaces(),
        lambda core, custom: custom.list_namespaced_custom_object("kubeflow.org", "v1", "trm", "pytorchjobs"),
        lambda core, custom: custom.delete_namespaced_custom_object(
            "trainer.kubeflow.org", "v1alpha1", "trm", "trainingruntimes", "trm"
        ),
        lambda core, custom: custom.patch_namespaced_custom_object(
            "kubeflow.org", "v1", "trm", "pytorchjobs", "a", {"spec": {}}
        ),
        lambda core, custom: custom.create_namespaced_custom_object(
            "kubeflow.org", "v1", "default", "pytorchjobs", job()
        ),
    ],
    ids=[
        "list secrets",
        "read another secret",
        "read another ConfigMap",
        "list ConfigMaps",
        "create a secret",
        "create a pod",
        "delete a pod",
        "exec into a pod",
        "create a token",
        "pods of another namespace",
        "pods of all namespaces",
        "list jobs",
        "delete a runtime",
        "patch a job",
        "a job in another namespace",
    ],
)
def test_forbidden_requests_of_the_launcher(launcher: KubernetesClient, attempt: Callable[[Any, Any], object]) -> None:
    with pytest.raises(ApiException) as error:
        attempt(client.CoreV1Api(launcher.api), client.CustomObjectsApi(launcher.api))
    assert error.value.status == 403


def test_kubeflow_containers_can_read_their_config_and_secret(applied: ApiServer, launcher: KubernetesClient) -> None:
    values = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    secret = {"metadata": {"name": "trm-s3"}, "stringData": values}
    assert applied.post("api/v1/namespaces/trm/secrets", secret).status_code in (201, 409)
    core: Any = client.CoreV1Api(launcher.api)
    assert set(core.read_namespaced_secret("trm-s3", "trm").data) == set(values)
    assert "providers" in core.read_namespaced_config_map("kfp-launcher", "trm").data


def test_missing_role_is_reported(applied: ApiServer, launcher: KubernetesClient) -> None:
    del applied
    problem = rf"cannot get resource .{launcher.backend.resource.plural}.*; grant the launcher's service account"
    with KubernetesClient("default", launcher.backend) as elsewhere, pytest.raises(UserError, match=problem):
        elsewhere.job("a")
