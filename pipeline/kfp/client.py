"""Client of the Kubeflow Pipelines API: retries transient errors, reports refusals in one line."""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import kfp_server_api
import urllib3
from kfp_server_api import ApiException

from components.retry import is_transient_status, retry
from pipeline.github import id_token
from trm.config.cluster import ClusterParams
from trm.utils.errors import InternalError, UserError
from trm.utils.output import printable_lines

RETRY_TIMEOUT = 180.0
"""Seconds for which requests to an unavailable or overloaded server are repeated."""
TIMEOUT = (5.0, 60.0)
"""Seconds to connect, and between two bytes of a response."""
TOKEN_VARIABLE = "KFP_TOKEN"
MOUNTED_TOKEN_VARIABLE, MOUNTED_TOKEN = "KF_PIPELINES_SA_TOKEN_PATH", "/var/run/secrets/kubeflow/pipelines/token"
"""Variable and default of the path where Kubeflow mounts the token of a service account, as in kfp's SDK."""
AUDIENCE = "pipelines.kubeflow.org"
"""Audience of the tokens that Kubeflow Pipelines accepts."""
ID_TOKEN_LIFETIME = 240.0
"""Seconds after which the identity token of a GitHub workflow is renewed. It is valid for five minutes."""
FINISHED_STATES = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
FAILED_STATES = ("FAILED", "CANCELED", "CANCELING")

RUN_ID = "[0-9A-Za-z][0-9A-Za-z-]{0,62}"
CONTENT_KEY = "[0-9a-f]{64}"
VERSION = r"[0-9A-Za-z.+_-]{1,40}"
COMMIT = "[0-9a-f]{40}"
"""Patterns of the texts in a run that reach commands, paths and branch names. Everybody who may submit runs can set
them."""

ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Task:
    """State of one task of a run."""

    name: str
    state: str
    """A value of kfp-server-api's `V2beta1RuntimeState`."""
    error: str
    """Error message in one line; "" without an error."""
    pod: str | None
    """Name of the pod of its container."""


@dataclass(frozen=True)
class Run:
    """State of a pipeline run."""

    id: str
    name: str
    state: str
    arguments: Mapping[str, Any]
    created: datetime
    error: str
    tasks: tuple[Task, ...]
    description: str = ""
    """Source of the run, as `submit` writes it: `commit ..., image ...`."""

    @property
    def commit(self) -> str:
        """Commit that was submitted, with the suffix `-dirty` if files differed from it; "" if unknown."""
        return _described(rf"commit ({COMMIT}(?:-dirty)?)", self.description)

    @property
    def image(self) -> str:
        """Image of the containers; "" if unknown."""
        return _described(r"image ([\w./:@-]+)", self.description)


class KfpClient:
    """Client of the server at `cluster.kfp_host`.

    The bearer token is read from `$KFP_TOKEN`; else from the mounted service account token
    (`$KF_PIPELINES_SA_TOKEN_PATH`, or Kubeflow's default path); else it is the identity token of the GitHub workflow
    (requires `id-token: write`); else requests carry no token.

    Every method raises `UserError` when the server refuses the request, and `InternalError` when it is unavailable for
    `retry_timeout` seconds.
    """

    def __init__(self, cluster: ClusterParams, retry_timeout: float | None = None) -> None:
        if cluster.kfp_host is None:
            raise UserError("cluster.kfp_host is null; set it to the URL of Kubeflow Pipelines in params.yaml")
        self.host, self.namespace = cluster.kfp_host.rstrip("/"), cluster.namespace
        self._retry_timeout = RETRY_TIMEOUT if retry_timeout is None else retry_timeout
        # kfp-server-api is generated code without types.
        configuration: Any = kfp_server_api.Configuration(host=self.host)
        configuration.retries = False  # `retry` repeats requests, with pauses
        _authorize(configuration)
        self._client: Any = kfp_server_api.ApiClient(configuration)
        self._runs: Any = kfp_server_api.RunServiceApi(self._client)
        self._experiments: Any = kfp_server_api.ExperimentServiceApi(self._client)
        self._scope = {"namespace": self.namespace} if self.namespace else {}

    def run_url(self, run_id: str) -> str:
        """Return the URL of the run in the web UI."""
        return f"{self.host}/#/runs/details/{run_id}"

    def get(self, run_id: str) -> Run:
        """Return the run with its tasks."""
        return self._request(
            f"run {run_id}", lambda: _parse_run(self._runs.run_service_get_run(run_id, _request_timeout=TIMEOUT))
        )

    def submit(
        self,
        experiment: str,
        name: str,
        spec: Mapping[str, Any],
        arguments: Mapping[str, Any],
        service_account: str | None,
        force: bool,
        description: str = "",
    ) -> tuple[Run, bool]:
        """Return a run of the pipeline with these arguments, and whether it is new.

        Args:
            experiment: Name of the experiment; created if necessary.
            name: Name of the run.
            spec: Compiled pipeline, as `pipeline_spec` returns it.
            arguments: Arguments of the pipeline.
            service_account: Service account of the pods.
            force: Create a run. If False, the newest run of this name with the same content keys and artifact root is
                returned, unless it failed or was stopped.
            description: Description of a new run.
        """
        experiment_id = self._request("the experiments", lambda: self._experiment(experiment))
        body: Any = kfp_server_api.V2beta1Run(
            experiment_id=experiment_id,
            display_name=name,
            description=description,
            pipeline_spec=spec,
            runtime_config=kfp_server_api.V2beta1RuntimeConfig(
                parameters=dict(arguments), pipeline_root=arguments["artifact_root"]
            ),
            service_account=service_account,
        )
        ignored = {run.id for run in self._request("the runs", lambda: self._list_named(name))} if force else set()

        def find_or_create() -> tuple[Run, bool]:
            # Every attempt looks for the run: an earlier one may have created it although its response was lost.
            for run in self._list_named(name):
                if run.id not in ignored and run.state not in FAILED_STATES and _same_keys(run.arguments, arguments):
                    return run, False
            return _parse_run(self._runs.run_service_create_run(body, _request_timeout=TIMEOUT)), True

        return self._request("a new run", find_or_create)

    def list_runs(self, experiment: str) -> list[Run]:
        """Return the newest runs of an experiment, at most 100, without their tasks."""

        def request() -> list[Run]:
            response = self._runs.run_service_list_runs(
                experiment_id=self._experiment(experiment),
                sort_by="created_at desc",
                page_size=100,
                _request_timeout=TIMEOUT,
                **self._scope,
            )
            return [_parse_run(run) for run in response.runs or []]

        return self._request("the runs", request)

    def get_server(self) -> tuple[str, bool]:
        """Return the version of the API server, and whether runs belong to namespaces of users.

        The version is "unknown" if the response has none. Its name depends on whether the web UI passes it on.
        """

        def request() -> tuple[str, bool]:
            try:
                # The server may omit false values; the generated method cannot tell them from a login page.
                response = dict(json.loads(self._get("/apis/v2beta1/healthz").data))
            except (ValueError, TypeError):
                raise _unexpected_response() from None
            version = str(response.get("apiServerTagName") or response.get("tag_name", ""))
            return version if re.fullmatch(VERSION, version) else "unknown", bool(response.get("multi_user"))

        return self._request("the state of the server", request)

    def count_runs(self) -> int:
        """Return the number of runs in the namespace."""
        response = self._request(
            "the runs",
            lambda: self._runs.run_service_list_runs(page_size=1, _request_timeout=TIMEOUT, **self._scope),
        )
        return int(response.total_size or 0)

    def stop(self, run_id: str) -> None:
        """Stop the run."""
        self._request(f"run {run_id}", lambda: self._runs.run_service_terminate_run(run_id, _request_timeout=TIMEOUT))

    def pod_log(self, run: Run, pod: str) -> str:
        """Return the log of a pod from the web UI's log endpoint; "" if none is available."""
        query = {"podname": pod, "runid": run.id, "createdat": f"{run.created:%Y-%m-%d}"}
        if self.namespace:
            query["podnamespace"] = self.namespace
        try:
            response = self._get("/k8s/pod/logs", query)
        except (ApiException, urllib3.exceptions.HTTPError):
            return ""
        return printable_lines(response.data.decode(errors="replace"))

    def _get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """Return the response to a request for which kfp-server-api has no method."""
        return self._client.call_api(
            path,
            "GET",
            query_params=list((query or {}).items()),
            auth_settings=["Bearer"],
            _preload_content=False,
            _return_http_data_only=True,
            _request_timeout=TIMEOUT,
        )

    def _list_named(self, name: str) -> list[Run]:
        """Return the newest runs of this name, at most 100."""
        response = self._runs.run_service_list_runs(
            filter=_name_filter(name), sort_by="created_at desc", page_size=100, _request_timeout=TIMEOUT, **self._scope
        )
        return [_parse_run(run) for run in response.runs or []]

    def _experiment(self, name: str) -> str:
        """Return the id of the experiment, which is created if necessary."""
        response = self._experiments.experiment_service_list_experiments(
            filter=_name_filter(name), _request_timeout=TIMEOUT, **self._scope
        )
        for experiment in response.experiments or []:
            return experiment.experiment_id
        body = kfp_server_api.V2beta1Experiment(display_name=name, namespace=self.namespace)
        created = self._experiments.experiment_service_create_experiment(body, _request_timeout=TIMEOUT).experiment_id
        if not created:
            raise _unexpected_response()
        return created

    def _request(self, subject: str, request: Callable[[], ResultT]) -> ResultT:
        try:
            return retry(request, _is_transient, self._retry_timeout, self._print_retry)
        except ApiException as error:
            raise self._as_project_error(subject, error) from None
        except urllib3.exceptions.LocationValueError as error:
            raise UserError(f"cluster.kfp_host {self.host}: not a URL ({error}); correct it in params.yaml") from None
        except urllib3.exceptions.HTTPError as error:
            reason = " ".join(str(error).split())[:200]
            raise InternalError(
                f"{self.host}: cannot connect to Kubeflow Pipelines ({reason}), after {self._retry_timeout:.0f} s; "
                "check cluster.kfp_host and the network"
            ) from None

    def _print_retry(self) -> None:
        print(
            f"{self.host} is not available; retrying for up to {self._retry_timeout:.0f} s", file=sys.stderr, flush=True
        )

    def _as_project_error(self, subject: str, error: ApiException) -> Exception:
        message = f"{error.status} {_message(error)}"
        if error.status in (401, 403):
            return UserError(f"{self.host}: no access to {subject} ({message}); set ${TOKEN_VARIABLE} to a valid token")
        if error.status == 404:
            return UserError(
                f"{self.host}: {subject} not found ({message}); check the run id, cluster.kfp_host and namespace"
            )
        if error.status is not None and error.status < 500:
            return UserError(f"{self.host}: rejected {subject} ({message}); check section cluster")
        return InternalError(f"{self.host}: {subject}: {message}, after {self._retry_timeout:.0f} s")


def _parse_run(response: Any) -> Run:
    if not response.run_id:
        raise _unexpected_response()
    config, details = response.runtime_config, response.run_details
    tasks = (details.task_details if details else None) or ()
    return Run(
        id=response.run_id,
        name=printable_lines(response.display_name),
        state=response.state or "PENDING",
        arguments=(config.parameters if config else None) or {},
        created=response.created_at,
        error=_error_message(response),
        tasks=tuple(_parse_task(task, tasks) for task in tasks),
        description=printable_lines(response.description or ""),
    )


def _described(pattern: str, description: str) -> str:
    match = re.search(rf"\b{pattern}(?:,|$)", description)
    return match[1] if match else ""


def _unexpected_response() -> UserError:
    return UserError(
        "cluster.kfp_host: the response is not one of Kubeflow Pipelines (a login page?); "
        f"set ${TOKEN_VARIABLE}, or correct the URL"
    )


def _parse_task(detail: Any, tasks: Any) -> Task:
    pods = [child.pod_name for child in detail.child_tasks or () if child.pod_name]
    # The container runs in a separate pod, in a child task of the task that is named after the stage.
    children = [other for other in tasks if other.parent_task_id and other.parent_task_id == detail.task_id]
    pods += [child.pod_name for child in children if child.pod_name]
    container_pods = [pod for pod in pods if "impl" in pod]
    pod = (container_pods or pods or [detail.pod_name])[-1] or None
    return Task(detail.display_name, detail.state or "PENDING", _error_message(detail), pod)


def _error_message(response: Any) -> str:
    return " ".join(printable_lines(str(response.error.message or "")).split()) if response.error else ""


def _name_filter(name: str) -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "name", "string_value": name}]})


def _same_keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return True if the content keys, which cover all params, and the artifact root are equal."""
    return all(one.get(name) == value for name, value in other.items() if isinstance(value, str))


def _authorize(configuration: Any) -> None:
    mounted = Path(os.environ.get(MOUNTED_TOKEN_VARIABLE, MOUNTED_TOKEN))
    configuration.api_key_prefix["authorization"] = "Bearer"
    if os.environ.get(TOKEN_VARIABLE):
        configuration.api_key["authorization"] = os.environ[TOKEN_VARIABLE]
    elif mounted.exists():

        def read_token(configuration: Any) -> None:
            configuration.api_key["authorization"] = mounted.read_text(encoding="utf-8").strip()

        read_token(configuration)
        configuration.refresh_api_key_hook = read_token  # before each request: the token rotates
    elif token := id_token(AUDIENCE):
        configuration.api_key["authorization"] = token
        renewed = time.monotonic()

        def renew_token(configuration: Any) -> None:
            nonlocal renewed
            if time.monotonic() - renewed > ID_TOKEN_LIFETIME and (token := id_token(AUDIENCE)):
                configuration.api_key["authorization"], renewed = token, time.monotonic()

        configuration.refresh_api_key_hook = renew_token


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, ApiException):
        transient = error.status == 0 or is_transient_status(error.status)
        return transient and "CERTIFICATE" not in str(error.reason).upper()
    return isinstance(error, urllib3.exceptions.HTTPError) and not isinstance(
        error, urllib3.exceptions.LocationValueError
    )


def _message(error: ApiException) -> str:
    """Return the server's error message as one line."""
    try:
        body = json.loads(error.body or "")
        message = body.get("message") or body.get("error") or error.reason
    except (TypeError, ValueError, AttributeError):
        message = error.reason or error.body
    return " ".join(str(message).split())[:300]
