"""The manifests on a real API server, where the launcher's service account may do what the launcher does, no more."""

import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client
from kubernetes.client import ApiException
from kubernetes.client.rest import RESTClientObject

from components.train import kubernetes_client as module
from components.train.kubernetes_client import Cluster
from components.train.pytorch_job import fill, template
from tests.apiserver import ApiServer, apiserver, assets
from tests.conftest import ROOT
from tests.k8s.rendering import VARIANTS, kubectl, objects, overlay, render
from trm.cluster import ClusterParams, JobParams
from trm.errors import UserError

__all__ = ["apiserver", "assets"]
pytestmark = pytest.mark.slow
Asked = tuple[str, str, str]
"""Verb, API group, resource."""
ACCOUNT = "api/v1/namespaces/trm/serviceaccounts/trm-launcher"
BOUND = (
    ("create", "kubeflow.org", "pytorchjobs"),
    ("create", "argoproj.io", "workflowtaskresults"),
    ("list", "", "nodes"),
)
"""One right of each role."""
EVERYBODY = {"selfsubjectaccessreviews", "selfsubjectrulesreviews"}
"""Whoever has logged in may ask what he may do."""


@pytest.fixture(scope="session")
def applied(apiserver: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> ApiServer:
    """The server with overlay `dev`, as a user applies it, and with Kubeflow's namespace."""
    ran = kubectl("apply", "-k", overlay("dev", tmp_path_factory.mktemp("dev")), kubeconfig=apiserver.kubeconfig())
    assert (ran.returncode, ran.stderr) == (0, "")
    assert apiserver.post("api/v1/namespaces", {"metadata": {"name": "kubeflow"}}).status_code == 201
    deadline = time.monotonic() + 30
    while not all(_is_bound(apiserver, asked) for asked in BOUND):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return apiserver


def _is_bound(server: ApiServer, asked: Asked) -> bool:
    """Whether the authorizer has seen the binding of the role that lets the service account do so."""
    wish = {"namespace": "trm"} | dict(zip(("verb", "group", "resource"), asked, strict=True))
    spec = {"user": "system:serviceaccount:trm:trm-launcher", "resourceAttributes": wish}
    return server.post("apis/authorization.k8s.io/v1/subjectaccessreviews", {"spec": spec}).json()["status"]["allowed"]


@pytest.fixture
def launcher(applied: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The launcher's client, with a token of the service account, as a pod has one."""
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}}
    answer = applied.post(f"{ACCOUNT}/token", request)
    assert answer.status_code == 201, answer.text
    config = json.loads(applied.kubeconfig("nobody", "trm").read_text())
    config["users"] = [{"name": "nobody", "user": {"token": answer.json()["status"]["token"]}}]
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.delenv("NAMESPACE", raising=False)
    # kubernetes' client has read KUBECONFIG already.
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    return Cluster("trm")


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Asked, int]]:
    """Every request that the process makes of Kubernetes from now on, and the status of its answer."""
    seen: list[tuple[Asked, int]] = []
    request: Any = RESTClientObject.request

    def recorded(self: object, method: str, url: str, **more: Any) -> object:  # noqa: ANN401 - whatever is passed on
        try:
            answer = request(self, method, url, **more)
        except ApiException as error:
            seen.append((asked(method, url, more.get("query_params")), error.status or 0))
            raise
        seen.append((asked(method, url, more.get("query_params")), answer.status))
        return answer

    monkeypatch.setattr(RESTClientObject, "request", recorded)
    return seen


def asked(method: str, url: str, query: list[tuple[str, str]] | None) -> Asked:
    """A request as the authorizer of Kubernetes sees it."""
    path = re.fullmatch(
        r"https://[^/]+/apis?/(?:(?P<group>[^/]+\.[^/]+)/)?v1/(?:namespaces/[^/]+/)?(?P<resource>[a-z]+)"
        r"(?:/(?P<name>[^/]+)(?P<below>/[a-z]+)?)?",
        url,
    )
    assert path, url
    watches = ("watch", "true") in [(key, str(value).lower()) for key, value in query or ()]
    one = {"GET": "get", "POST": "create", "DELETE": "delete", "PUT": "update", "PATCH": "patch"}
    many = {"GET": "watch" if watches else "list", "POST": "create", "DELETE": "deletecollection"}
    verb = (one if path["name"] else many)[method]
    return verb, path["group"] or "", path["resource"] + (path["below"] or "")


def job() -> dict[str, Any]:
    made = fill(template(ClusterParams(job=JobParams())), ["train"], "a" * 64, "s3://a/b", {"name": "p", "uid": "u"})
    made["metadata"].pop("namespace", None)
    return made


def use_all(launcher: Cluster) -> None:
    """Call each method of the client once, with a job and a pod that are there."""
    calls: dict[str, Callable[[dict[str, Any]], object]] = {
        "job": lambda found: launcher.job(found["metadata"]["name"]),
        "create": lambda found: launcher.create(job()),
        "most_on_a_node": lambda found: launcher.most_on_a_node("nvidia.com/gpu", {"a": "b"}),
        "pods": launcher.pods,
        "events": lambda found: launcher.events(found["metadata"]["uid"]),
        "tail": lambda found: launcher.tail("pod", True, 10),
        "stream": lambda found: list(launcher.stream("pod", datetime.now(UTC), 5)),
        "delete": launcher.delete,
    }
    methods = {name for name, each in vars(Cluster).items() if callable(each) and not name.startswith("_")}
    assert methods == set(calls)
    assert launcher.create(job())
    found = launcher.job(job()["metadata"]["name"])
    assert found is not None
    for call in calls.values():
        call(found)
    assert launcher.job(job()["metadata"]["name"]) is None


def make_pod(server: ApiServer) -> None:
    pod = {"metadata": {"name": "pod"}, "spec": {"containers": [{"name": "a", "image": "a"}]}}
    assert server.post("api/v1/namespaces/trm/pods", pod).status_code in (201, 409)


def role(name: str, kind: str = "Role") -> set[Asked]:
    """What a role of the manifests gives."""
    return _flat(objects((ROOT / "k8s/base/access.yaml").read_text())[kind, name]["rules"])


def launchers() -> set[Asked]:
    return role("trm-launcher") | role("trm-launcher-nodes", "ClusterRole")


def _flat(rules: list[dict[str, Any]]) -> set[Asked]:
    return {
        (verb, group, resource + "".join(f"={name}" for name in rule.get("resourceNames") or ()))
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_server_takes_every_object(variant: str, applied: ApiServer, tmp_path: Path) -> None:
    rendered = objects(render(variant))
    folder = overlay(variant, tmp_path)
    ran = kubectl("apply", "--dry-run=server", "-k", folder, kubeconfig=applied.kubeconfig())
    assert (ran.returncode, ran.stderr) == (0, "")
    assert len(ran.stdout.splitlines()) == len(rendered)
    assert all(line.endswith("(server dry run)") for line in ran.stdout.splitlines())


def test_the_launcher_may_do_what_it_does_and_nothing_else(
    applied: ApiServer, launcher: Cluster, answered: list[tuple[Asked, int]]
) -> None:
    make_pod(applied)
    use_all(launcher)
    assert [each for each in answered if each[1] in (401, 403)] == []
    assert {each for each, _ in answered} == launchers()


def test_nobody_else_of_the_launcher_speaks_to_kubernetes() -> None:
    """The test above sees what `Cluster` asks; so nothing beside it may ask."""
    for file in (ROOT / "components").rglob("*.py"):
        if file != Path(str(module.__file__)):
            words = re.findall(r"\b(?:CoreV1Api|CustomObjectsApi|DynamicClient|call_api|Watch)\b", file.read_text())
            assert words == [], file


def test_what_the_server_says_the_service_account_may_do(launcher: Cluster) -> None:
    """The two roles and what everybody may, whatever other manifests bind to it."""
    api = client.AuthorizationV1Api(launcher._client)
    review: Any = api.create_self_subject_rules_review({"spec": {"namespace": "trm"}})
    rules: Any = client.ApiClient().sanitize_for_serialization(review.status.resource_rules)
    found = {each for each in _flat(rules) if each[2] not in EVERYBODY}
    assert found == launchers() | role("trm-kubeflow")
    elsewhere: Any = api.create_self_subject_rules_review({"spec": {"namespace": "default"}})
    assert {name for rule in elsewhere.status.resource_rules for name in rule.resources} <= {*EVERYBODY, "nodes"}


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
        "make a secret",
        "make a pod",
        "delete a pod",
        "enter a pod",
        "make a token",
        "pods of another namespace",
        "pods of all namespaces",
        "list jobs",
        "change a job",
        "a job in another namespace",
    ],
)
def test_what_the_launcher_must_not_do(launcher: Cluster, attempt: Callable[[Any, Any], object]) -> None:
    with pytest.raises(ApiException) as error:
        attempt(client.CoreV1Api(launcher._client), client.CustomObjectsApi(launcher._client))
    assert error.value.status == 403


def test_kubeflows_containers_read_their_settings_and_the_keys_alone(applied: ApiServer, launcher: Cluster) -> None:
    values = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    secret = {"metadata": {"name": "trm-s3"}, "stringData": values}
    assert applied.post("api/v1/namespaces/trm/secrets", secret).status_code in (201, 409)
    core: Any = client.CoreV1Api(launcher._client)
    assert set(core.read_namespaced_secret("trm-s3", "trm").data) == set(values)
    assert "providers" in core.read_namespaced_config_map("kfp-launcher", "trm").data


def test_without_the_role_the_launcher_says_so(
    applied: ApiServer, launcher: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "_jobs", ("kubeflow.org", "v1", "default", "pytorchjobs"))
    with pytest.raises(UserError, match=r"cannot get resource .pytorchjobs.*; give the launcher's service account"):
        launcher.job("a")
