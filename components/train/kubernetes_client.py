"""Kubernetes as the launcher asks it: patient with a server that is away, plain about one that refuses."""

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import urllib3
from kubernetes import client, config
from kubernetes.client import ApiException
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_exponential

from components.train.log import say
from components.train.pytorch_job import GROUP, KIND, PLURAL, VERSION
from trm.errors import Fault, UserError

PATIENCE = 1800.0
"""Seconds for which a server that is away is asked again; the job trains on meanwhile."""
TIMEOUT = (5.0, 30.0)
"""Seconds to connect, and between two bytes of an answer."""
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

ResultT = TypeVar("ResultT")


class Cluster:
    """The cluster of the pod that this runs in, else the one that the kubeconfig names.

    Every method raises `UserError` where the server refuses, `Fault` where it stays away for `PATIENCE` seconds.
    """

    def __init__(self, namespace: str | None) -> None:
        # The client is generated code without types.
        configuration: Any = client.Configuration()
        own = _configure(configuration)
        configuration.retries = False  # tried again here, with pauses
        self.host: str = configuration.host
        self.namespace = namespace or own
        self._client: Any = client.ApiClient(configuration)
        self._custom, self._core = client.CustomObjectsApi(self._client), client.CoreV1Api(self._client)
        self._jobs = (GROUP, VERSION, self.namespace, PLURAL)

    def job(self, name: str) -> dict[str, Any] | None:
        """The job as it stands, None where there is none."""
        try:
            found: Any = self._ask(lambda: self._custom.get_namespaced_custom_object(*self._jobs, name, **_TIMEOUT))
        except _GoneError:
            return None
        return found

    def create(self, job: Mapping[str, Any]) -> bool:
        """Create the job; False where one of its name is there."""
        try:
            self._ask(lambda: self._custom.create_namespaced_custom_object(*self._jobs, job, **_TIMEOUT))
        except _TakenError:
            return False
        return True

    def delete(self, job: Mapping[str, Any]) -> None:
        """Delete this very job and, after it, its pods; nothing happens where it is gone."""
        which = client.V1Preconditions(uid=job["metadata"]["uid"])
        options = client.V1DeleteOptions(preconditions=which, propagation_policy="Background")
        name = job["metadata"]["name"]
        try:
            self._ask(lambda: self._custom.delete_namespaced_custom_object(*self._jobs, name, body=options, **_TIMEOUT))
        except (_GoneError, _TakenError):  # taken: another job has the name now
            return

    def pods(self, job: Mapping[str, Any]) -> list[Any]:
        """The job's pods, in the order of their numbers."""
        selector = f"training.kubeflow.org/job-name={job['metadata']['name']}"
        found = self._ask(
            lambda: self._core.list_namespaced_pod(self.namespace, label_selector=selector, **_TIMEOUT)
        ).items
        uid = job["metadata"]["uid"]
        own = [pod for pod in found if any(owner.uid == uid for owner in pod.metadata.owner_references or ())]
        return sorted(own, key=number)

    def events(self, uid: str) -> list[Any]:
        """What happened to an object, oldest first."""
        selector = f"involvedObject.uid={uid}"
        found = self._ask(
            lambda: self._core.list_namespaced_event(self.namespace, field_selector=selector, **_TIMEOUT)
        ).items
        return sorted(found, key=lambda event: event.last_timestamp or event.metadata.creation_timestamp)

    def most_on_a_node(self, resource: str, labels: Mapping[str, str]) -> int | None:
        """How many of `resource` (GPUs) the best node with these labels gives to pods.

        None where no such node is there (one may be made yet), or where nodes may not be looked at.
        """
        selector = ",".join(f"{name}={value}" for name, value in labels.items())
        try:
            nodes = self._ask(lambda: self._core.list_node(label_selector=selector, **_TIMEOUT)).items
        except UserError:
            return None
        return max((int((node.status.allocatable or {}).get(resource, 0)) for node in nodes), default=0) or None

    def tail(self, pod: str, previous: bool, lines: int) -> str:
        """The end of a pod's log; empty where there is none (any more)."""
        try:
            return self._core.read_namespaced_pod_log(
                pod, self.namespace, previous=previous, tail_lines=lines, **_TIMEOUT
            )
        except (ApiException, urllib3.exceptions.HTTPError):
            return ""

    def stream(self, pod: str, since: datetime | None, silence: float) -> Iterator[bytes]:
        """A pod's log as it grows, each line after its timestamp; `silence` seconds without a byte end it.

        Raises `ApiException` and urllib3's errors as they come.
        """
        query = [("follow", "true"), ("timestamps", "true")]
        if since is not None:
            query.append(("sinceTime", since.isoformat(timespec="seconds").replace("+00:00", "Z")))
        response = self._client.call_api(  # the client's own method knows no sinceTime
            "/api/v1/namespaces/{namespace}/pods/{name}/log",
            "GET",
            path_params={"namespace": self.namespace, "name": pod},
            query_params=query,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _return_http_data_only=True,
            _request_timeout=(TIMEOUT[0], silence),
        )
        try:
            yield from response.stream(1 << 16)
        finally:
            response.close()

    def _ask(self, question: Callable[[], ResultT]) -> ResultT:
        tries = Retrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_after_delay(PATIENCE),
            wait=wait_exponential(multiplier=0.5, max=10),
            before_sleep=self._say_once,
            reraise=True,
        )
        try:
            return tries(question)
        except ApiException as error:
            raise refusal(error, self.host) from None
        except urllib3.exceptions.HTTPError as error:
            reason = " ".join(str(error).split())[:200]
            raise Fault(
                f"{self.host}: Kubernetes cannot be reached ({reason}), after {PATIENCE:.0f} s; the job may train on: "
                "start the launcher again to take it up"
            ) from None

    def _say_once(self, state: RetryCallState) -> None:
        if state.attempt_number == 1:
            say(f"{self.host} does not answer; asking again for up to {PATIENCE:.0f} s")


def number(pod: Any) -> int:
    """A worker's number."""
    return int(pod.metadata.labels["training.kubeflow.org/replica-index"])


class _GoneError(Exception):
    """There is no such object."""


class _TakenError(Exception):
    """There is another object."""


_TIMEOUT = {"_request_timeout": TIMEOUT}


def _configure(configuration: Any) -> str:
    """Fill in the way to the cluster; returns the namespace that is ours there."""
    try:
        config.load_incluster_config(client_configuration=configuration)
        return NAMESPACE_FILE.read_text().strip()
    except config.ConfigException:
        pass
    try:
        config.load_kube_config(client_configuration=configuration)
        _, active = config.list_kube_config_contexts()
        return active["context"].get("namespace") or "default"
    except config.ConfigException as error:
        raise UserError(f"no cluster: {error}; name a kubeconfig in $KUBECONFIG") from None


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, ApiException):
        return error.status in (0, 429) or (error.status is not None and error.status >= 500)
    return isinstance(error, urllib3.exceptions.HTTPError)


def refusal(error: ApiException, host: str) -> Exception:
    """What to tell the user of an answer that will not change."""
    body = _status(error)
    said = " ".join(str(body.get("message") or error.reason).split())[:500]
    kind = (body.get("details") or {}).get("kind")
    if error.status == 409:
        return _TakenError()
    if error.status == 404 and kind == PLURAL:
        return _GoneError()
    if _may_pass(error):
        return Fault(f"{host}: {error.status} {said}, after {PATIENCE:.0f} s")
    if error.status == 404 and kind is None:
        said = f"{host}: has no {KIND} ({GROUP}/{VERSION})"
        remedy = "install Kubeflow's training operator, or set cluster.job to null: then one pod trains"
    elif error.status == 404:
        remedy = "correct cluster.namespace"
    elif error.status == 403:
        remedy = "give the launcher's service account a role that may"
    elif error.status == 401:
        said, remedy = f"{host}: does not know who asks (401 {said})", "log in again, or check the service account"
    else:
        said, remedy = f"{host}: refuses the job ({error.status} {said})", "correct section cluster"
    return UserError(f"{said}; {remedy}")


def _status(error: ApiException) -> dict[str, Any]:
    try:
        return dict(json.loads(error.body or ""))
    except (TypeError, ValueError):
        return {}
