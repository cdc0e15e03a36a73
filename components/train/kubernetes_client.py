"""Client of the Kubernetes API for the launcher: retries transient errors, reports refusals in one line."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TypeVar

import urllib3
from kubernetes import client, config
from kubernetes.client import ApiException

from components.retry import is_transient_status, retry
from components.train.backend import ApiResource, Backend
from components.train.log import log
from components.train.train_job import RUNTIME
from trm.utils.errors import InternalError, UserError

RETRY_TIMEOUT = 1800.0
"""Seconds for which requests to an unavailable server are repeated. The job continues meanwhile."""
TIMEOUT = (5.0, 30.0)
"""Seconds to connect, and between two bytes of a response."""
SHORT_TIMEOUT = (2.0, 5.0)
"""`TIMEOUT` of a process that is being stopped."""
MAX_CONNECTIONS = 1000
"""Connections that are kept open: one for the log of each worker. urllib3 warns of every other one."""
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

ResultT = TypeVar("ResultT")


class NoClusterError(UserError):
    """The process runs neither in a pod nor with a kubeconfig."""


class KubernetesClient:
    """The cluster of the pod in which the process runs, or the current context of the kubeconfig.

    Every method raises `UserError` when the server refuses the request, and `InternalError` when it is unavailable for
    `RETRY_TIMEOUT` seconds.

    Args:
        namespace: Namespace of the jobs. None: that of the pod or of the kubeconfig.
        backend: Kind of the jobs.
    """

    def __init__(self, namespace: str | None, backend: Backend) -> None:
        self.backend = backend
        # The client is generated code without types.
        self._configuration: Any = client.Configuration()
        self._allowed: set[str] = set()
        """Actions that have succeeded. A later refusal (401, 403) passes: tokens rotate, servers start."""
        default_namespace = _configure(self._configuration)
        configuration = self._configuration
        configuration.retries = False  # `retry` repeats requests, with pauses
        configuration.connection_pool_maxsize = MAX_CONNECTIONS
        self.host: str = configuration.host
        self.namespace = namespace or default_namespace
        self._client: Any = client.ApiClient(configuration)
        self._custom, self._core = client.CustomObjectsApi(self._client), client.CoreV1Api(self._client)
        self._jobs = self._objects(backend.resource)
        self._retry_timeout, self._timeout = RETRY_TIMEOUT, {"_request_timeout": TIMEOUT}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.rest_client.pool_manager.clear()  # `ApiClient.close` keeps the connections open

    def set_retry_timeout(self, seconds: float) -> None:
        """Repeat further requests for at most this time, with short timeouts: the process is about to be killed."""
        self._retry_timeout, self._timeout = seconds, {"_request_timeout": SHORT_TIMEOUT}

    @property
    def api(self) -> Any:
        """The generated `ApiClient`."""
        return self._client

    def reload_credentials(self) -> None:
        """Read the token again: it rotates, and the server refuses the old one after a while."""
        with suppress(UserError, OSError):
            _configure(self._configuration)

    def job(self, name: str) -> dict[str, Any] | None:
        """Return the job's manifest with its status; None if it does not exist."""
        try:
            job: Any = self._request(
                "get jobs", lambda: self._custom.get_namespaced_custom_object(*self._jobs, name, **self._timeout)
            )
        except _NotFoundError:
            return None
        return job

    def runtime(self, name: str) -> dict[str, Any] | None:
        """Return the TrainingRuntime of this name; None if it does not exist."""
        try:
            runtime: Any = self._request(
                "get runtimes",
                lambda: self._custom.get_namespaced_custom_object(*self._objects(RUNTIME), name, **self._timeout),
            )
        except _NotFoundError:
            return None
        return runtime

    def create(self, job: Mapping[str, Any]) -> bool:
        """Create the job. Return False if a job of this name exists."""
        try:
            self._request(
                "create jobs", lambda: self._custom.create_namespaced_custom_object(*self._jobs, job, **self._timeout)
            )
        except _ConflictError:
            return False
        return True

    def delete(self, job: Mapping[str, Any]) -> None:
        """Delete the job and its pods, unless the job is gone or its name belongs to another job."""
        preconditions = client.V1Preconditions(uid=job["metadata"]["uid"])
        options = client.V1DeleteOptions(preconditions=preconditions, propagation_policy="Background")
        name = job["metadata"]["name"]
        try:
            self._request(
                "delete jobs",
                lambda: self._custom.delete_namespaced_custom_object(*self._jobs, name, body=options, **self._timeout),
            )
        except (_NotFoundError, _ConflictError):
            return

    def pods(self, job: Mapping[str, Any]) -> list[Any]:
        """Return the pods of the job, ordered by worker index and age: the last one of a worker is its newest."""
        selector = self.backend.pod_selector(job["metadata"]["name"])
        pods = self._request(
            "list pods",
            lambda: self._core.list_namespaced_pod(self.namespace, label_selector=selector, **self._timeout),
        ).items
        owned = [pod for pod in pods if self.backend.owns(job, pod)]
        return sorted(owned, key=lambda pod: (self.backend.worker_index(pod), pod.metadata.creation_timestamp))

    def events(self, job: Mapping[str, Any], pods: Iterable[Any]) -> list[Any]:
        """Return the events of the job, of the objects that make its pods, and of these pods, oldest first."""
        uids = {job["metadata"]["uid"], *(pod.metadata.uid for pod in pods)}
        parts = self.backend.parts(job["metadata"]["name"])
        created = datetime.fromisoformat(job["metadata"]["creationTimestamp"])
        events = self._request(
            "list events", lambda: self._core.list_namespaced_event(self.namespace, **self._timeout)
        ).items
        own = [
            event
            for event in events
            if event.involved_object.uid in uids
            # An earlier job of this name had parts of the same names.
            or ((event.involved_object.kind, event.involved_object.name) in parts and _time(event) >= created)
        ]
        return sorted(own, key=_time)

    def max_allocatable(self, resource: str, labels: Mapping[str, str]) -> int | None:
        """Return the largest allocatable amount of `resource` (GPUs) on one node with these labels.

        None if no such node exists (an autoscaler may add one), or if the account may not list nodes.
        """
        selector = ",".join(f"{name}={value}" for name, value in labels.items())
        try:
            nodes = self._request(
                "list nodes", lambda: self._core.list_node(label_selector=selector, **self._timeout)
            ).items
        except UserError:
            return None
        return max((int((node.status.allocatable or {}).get(resource, 0)) for node in nodes), default=0) or None

    def log_tail(self, pod: str, previous: bool, lines: int | None) -> str:
        """Return the last `lines` lines of a pod's log, or "" if no log is available.

        Args:
            pod: Name of the pod.
            previous: Read the log of the previous container instance.
            lines: Number of lines. None: all.
        """
        try:
            return self._core.read_namespaced_pod_log(
                pod, self.namespace, previous=previous, tail_lines=lines, **self._timeout
            )
        except (ApiException, urllib3.exceptions.HTTPError):
            return ""

    def has_pod(self, pod: Any) -> bool:
        """Return False if the pod is deleted. Raises `ApiException` and urllib3's errors unchanged."""
        name = f"metadata.name={pod.metadata.name}"
        found = self._core.list_namespaced_pod(self.namespace, field_selector=name, **self._timeout).items
        return any(each.metadata.uid == pod.metadata.uid for each in found)

    def stream_log(self, pod: str, since: datetime | None, read_timeout: float) -> Iterator[bytes]:
        """Yield chunks of a pod's log as it grows, each line prefixed by its timestamp.

        Raises `ApiException` and urllib3's errors unchanged.

        Args:
            pod: Name of the pod.
            since: Start with this second. None: start of the log.
            read_timeout: Seconds without a byte after which the connection is closed.
        """
        query = [("follow", "true"), ("timestamps", "true")]
        if since is not None:
            query.append(("sinceTime", since.isoformat(timespec="seconds").replace("+00:00", "Z")))
        response = self._client.call_api(  # `read_namespaced_pod_log` does not accept sinceTime
            "/api/v1/namespaces/{namespace}/pods/{name}/log",
            "GET",
            path_params={"namespace": self.namespace, "name": pod},
            query_params=query,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _return_http_data_only=True,
            _request_timeout=(TIMEOUT[0], read_timeout),
        )
        try:
            yield b""  # the server has accepted the request
            yield from response.stream(1 << 16)
        finally:
            response.close()

    def project_error(self, error: ApiException) -> Exception:
        """Return the `UserError` or `InternalError` for a response that is an error."""
        return _project_error(error, self.host, self.backend.resource)

    def _objects(self, resource: ApiResource) -> tuple[str, str, str, str]:
        return resource.group, resource.version, self.namespace, resource.plural

    def _request(self, action: str, request: Callable[[], ResultT]) -> ResultT:
        def log_retry() -> None:
            log(f"{self.host} is not available; retrying for up to {self._retry_timeout:.0f} s")

        def with_current_credentials() -> ResultT:
            try:
                result = request()
            except ApiException as error:
                if error.status != 401:
                    raise
                self.reload_credentials()
                result = request()
            self._allowed.add(action)
            return result

        def is_transient(error: BaseException) -> bool:
            refused = isinstance(error, ApiException) and error.status in (401, 403)
            return (refused and action in self._allowed) or _is_transient(error)

        try:
            return retry(with_current_credentials, is_transient, self._retry_timeout, log_retry)
        except ApiException as error:
            raise self.project_error(error) from None
        except urllib3.exceptions.HTTPError as error:
            reason = " ".join(str(error).split())[:200]
            raise InternalError(
                f"{self.host}: cannot connect to Kubernetes ({reason}), after {self._retry_timeout:.0f} s; the job may "
                "continue: restart the launcher to follow it"
            ) from None


def _time(event: Any) -> datetime:
    return event.last_timestamp or event.event_time or event.metadata.creation_timestamp


class _NotFoundError(Exception):
    """The object does not exist."""


class _ConflictError(Exception):
    """Another object has this name, or the object has another uid."""


def _configure(configuration: Any) -> str:
    """Set the cluster's address and credentials; return the default namespace."""
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
        raise NoClusterError(f"no Kubernetes cluster: {error}; set $KUBECONFIG to a kubeconfig file") from None


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, ApiException):
        return error.status == 0 or is_transient_status(error.status)
    return isinstance(error, urllib3.exceptions.HTTPError)


def _project_error(error: ApiException, host: str, resource: ApiResource) -> Exception:
    body = _status(error)
    message = " ".join(str(body.get("message") or error.reason).split())[:500]
    kind = (body.get("details") or {}).get("kind")
    if error.status == 409:
        return _ConflictError()
    if error.status == 404 and kind in (resource.plural, RUNTIME.plural):
        return _NotFoundError()
    if _is_transient(error):
        return InternalError(f"{host}: {error.status} {message}, after {RETRY_TIMEOUT:.0f} s")
    if error.status == 404 and kind is None:
        message = f"{host}: {resource.kind} ({resource.group}/{resource.version}) is not installed"
        remedy = f"install {resource.controller}, or set cluster.train_job to null to train in one pod"
    elif error.status == 404:
        remedy = "correct cluster.namespace"
    elif error.status == 403 and "admission webhook" not in message:
        remedy = "grant the launcher's service account a role with this permission"
    elif error.status == 401:
        message = f"{host}: authentication failed (401 {message})"
        remedy = "log in again, or check the service account"
    else:
        message, remedy = f"{host}: rejected the job ({error.status} {message})", "correct section cluster"
    return UserError(f"{message}; {remedy}")


def _status(error: ApiException) -> dict[str, Any]:
    try:
        return dict(json.loads(error.body or ""))
    except (TypeError, ValueError):
        return {}
