"""Kubeflow Pipelines' API as this project uses it: patient with a server that is away, plain about one that refuses."""

import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import kfp_server_api
import urllib3
from kfp_server_api import ApiException
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_exponential

from pipeline.github import id_token
from trm.cluster import ClusterParams
from trm.errors import Fault, UserError

PATIENCE = 180.0
"""Seconds for which a server that is away, slow or busy is asked again."""
TIMEOUT = (5.0, 60.0)
"""Seconds to connect, and between two bytes of an answer."""
TOKEN = "KFP_TOKEN"
AUDIENCE = "pipelines.kubeflow.org"
"""For which Kubeflow has tokens reviewed."""
ENDED = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
FAILED = ("FAILED", "CANCELED", "CANCELING")

ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Task:
    """A task of a run, as it stands."""

    name: str
    state: str
    """One of kfp-server-api's V2beta1RuntimeState."""
    problem: str
    """What went wrong, in one line; empty: nothing."""
    pod: str | None
    """Where its container runs or ran."""


@dataclass(frozen=True)
class Run:
    """A run of the pipeline, as it stands."""

    id: str
    name: str
    state: str
    arguments: Mapping[str, Any]
    created: datetime
    problem: str
    tasks: tuple[Task, ...]
    description: str = ""
    """Where it came from: `commit …, image …`."""

    @property
    def commit(self) -> str:
        """What it was submitted from; empty: not known."""
        return _described("commit", self.description)

    @property
    def image(self) -> str:
        """What it runs; empty: not known."""
        return _described("image", self.description)


class Kubeflow:
    """The server that `cluster.host` names.

    It is asked with the token in `$KFP_TOKEN`, else with that of the service account whose token is mounted at
    `$KF_PIPELINES_SA_TOKEN_PATH` (or at Kubeflow's own place for it), else in a GitHub workflow with the workflow's own
    identity (OIDC, where it has `id-token: write`), else with none. Every method raises `UserError` where the server
    refuses, `Fault` where it stays away for `PATIENCE` seconds.
    """

    def __init__(self, cluster: ClusterParams) -> None:
        if cluster.host is None:
            raise UserError("cluster.host is null; give the address of Kubeflow Pipelines in params.yaml")
        self.host, self.namespace = cluster.host.rstrip("/"), cluster.namespace
        # kfp-server-api is generated code without types.
        configuration: Any = kfp_server_api.Configuration(host=self.host)
        configuration.retries = False  # tried again here, with pauses
        _authorize(configuration)
        self._client: Any = kfp_server_api.ApiClient(configuration)
        self._runs: Any = kfp_server_api.RunServiceApi(self._client)
        self._experiments: Any = kfp_server_api.ExperimentServiceApi(self._client)
        self._scope = {"namespace": self.namespace} if self.namespace else {}

    def address(self, run_id: str) -> str:
        """Where a person looks at the run."""
        return f"{self.host}/#/runs/details/{run_id}"

    def get(self, run_id: str) -> Run:
        """The run as it stands."""
        return self._ask(
            f"run {run_id}", lambda: _run(self._runs.run_service_get_run(run_id, _request_timeout=TIMEOUT))
        )

    def submit(
        self,
        experiment: str,
        name: str,
        spec: Mapping[str, Any],
        arguments: Mapping[str, Any],
        service_account: str | None,
        again: bool,
        description: str = "",
    ) -> tuple[Run, bool]:
        """A run of the pipeline `spec` with `arguments`, and whether it is new.

        Without `again` the newest run of this name with the same keys and root is taken, unless it failed or was
        stopped.
        """
        experiment_id = self._ask("the experiments", lambda: self._experiment(experiment))
        body: Any = kfp_server_api.V2beta1Run(
            experiment_id=experiment_id,
            display_name=name,
            description=description,
            pipeline_spec=spec,
            runtime_config=kfp_server_api.V2beta1RuntimeConfig(
                parameters=dict(arguments), pipeline_root=arguments["root"]
            ),
            service_account=service_account,
        )
        passed_over = {run.id for run in self._ask("the runs", lambda: self._named(name))} if again else set()

        def once() -> tuple[Run, bool]:
            # Looked up at every try: the answer to an earlier one may have been lost, and its run is there.
            for run in self._named(name):
                if run.id not in passed_over and run.state not in FAILED and _same_request(run.arguments, arguments):
                    return run, False
            return _run(self._runs.run_service_create_run(body, _request_timeout=TIMEOUT)), True

        return self._ask("a new run", once)

    def all(self, experiment: str) -> list[Run]:
        """The newest runs of an experiment, at most a hundred, without their tasks."""

        def once() -> list[Run]:
            answer = self._runs.run_service_list_runs(
                experiment_id=self._experiment(experiment),
                sort_by="created_at desc",
                page_size=100,
                _request_timeout=TIMEOUT,
                **self._scope,
            )
            return [_run(run) for run in answer.runs or []]

        return self._ask("the runs", once)

    def stop(self, run_id: str) -> None:
        """Stop the run."""
        self._ask(f"run {run_id}", lambda: self._runs.run_service_terminate_run(run_id, _request_timeout=TIMEOUT))

    def log(self, run: Run, pod: str) -> str:
        """The log of a pod, as Kubeflow's page shows it; empty where there is none to be had."""
        query = {"podname": pod, "runid": run.id, "createdat": f"{run.created:%Y-%m-%d}"}
        if self.namespace:
            query["podnamespace"] = self.namespace
        try:
            response = self._client.call_api(
                "/k8s/pod/logs",
                "GET",
                query_params=list(query.items()),
                auth_settings=["Bearer"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=TIMEOUT,
            )
        except (ApiException, urllib3.exceptions.HTTPError):
            return ""
        return response.data.decode(errors="replace")

    def _named(self, name: str) -> list[Run]:
        """The newest runs of this name, at most a hundred."""
        answer = self._runs.run_service_list_runs(
            filter=_of_name(name), sort_by="created_at desc", page_size=100, _request_timeout=TIMEOUT, **self._scope
        )
        return [_run(run) for run in answer.runs or []]

    def _experiment(self, name: str) -> str:
        """The id of the experiment, which is made where it is not there."""
        answer = self._experiments.experiment_service_list_experiments(
            filter=_of_name(name), _request_timeout=TIMEOUT, **self._scope
        )
        for experiment in answer.experiments or []:
            return experiment.experiment_id
        new = kfp_server_api.V2beta1Experiment(display_name=name, namespace=self.namespace)
        made = self._experiments.experiment_service_create_experiment(new, _request_timeout=TIMEOUT).experiment_id
        if not made:
            raise _not_kubeflow()
        return made

    def _ask(self, what: str, question: Callable[[], ResultT]) -> ResultT:
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
            raise self._refused(what, error) from None
        except urllib3.exceptions.LocationValueError as error:
            raise UserError(f"cluster.host {self.host}: not an address ({error}); correct it in params.yaml") from None
        except urllib3.exceptions.HTTPError as error:
            reason = " ".join(str(error).split())[:200]
            raise Fault(f"{self.host}: Kubeflow cannot be reached ({reason}), after {PATIENCE:.0f} s") from None

    def _say_once(self, state: RetryCallState) -> None:
        if state.attempt_number == 1:
            print(f"{self.host} does not answer; asking again for up to {PATIENCE:.0f} s", file=sys.stderr, flush=True)

    def _refused(self, what: str, error: ApiException) -> Exception:
        said = _message(error)
        if error.status in (401, 403):
            return UserError(f"{self.host}: refuses {what} ({error.status} {said}); set ${TOKEN} to a valid token")
        if error.status == 404:
            return UserError(f"{self.host}: has no {what} (404 {said}); check the run's id, cluster.host and namespace")
        if error.status is not None and error.status < 500:
            return UserError(f"{self.host}: refuses {what} ({error.status} {said}); check section cluster")
        return Fault(f"{self.host}: {what}: {error.status} {said}, after {PATIENCE:.0f} s")


def _run(answer: Any) -> Run:
    if not answer.run_id:
        raise _not_kubeflow()
    config, details = answer.runtime_config, answer.run_details
    return Run(
        id=answer.run_id,
        name=answer.display_name,
        state=answer.state or "PENDING",
        arguments=(config.parameters if config else None) or {},
        created=answer.created_at,
        problem=_problem(answer),
        tasks=tuple(_task(task, details.task_details) for task in (details.task_details if details else None) or ()),
        description=answer.description or "",
    )


def _described(name: str, description: str) -> str:
    match = re.search(rf"\b{name} (\S+?)(?:,|$)", description)
    return match[1] if match else ""


def _not_kubeflow() -> UserError:
    return UserError(
        f"cluster.host answers, but not as Kubeflow Pipelines does (a log-in page?); set ${TOKEN}, correct the address"
    )


def _task(detail: Any, others: Any) -> Task:
    pods = [child.pod_name for child in detail.child_tasks or () if child.pod_name]
    # The container runs in a pod of its own, below the task that Kubeflow names after the stage.
    below = [other for other in others if other.parent_task_id and other.parent_task_id == detail.task_id]
    pods += [other.pod_name for other in below if other.pod_name]
    own = [pod for pod in pods if "impl" in pod]
    state = detail.state or "PENDING"
    return Task(detail.display_name, state, _problem(detail), (own or pods or [detail.pod_name])[-1] or None)


def _problem(answer: Any) -> str:
    return " ".join(str(answer.error.message or "").split()) if answer.error else ""


def _of_name(name: str) -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "name", "string_value": name}]})


def _same_request(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the content keys and the root are the same; the keys stand for all the params."""
    return all(one.get(name) == value for name, value in other.items() if isinstance(value, str))


def _authorize(configuration: Any) -> None:
    from kfp.client import KF_PIPELINES_SA_TOKEN_ENV, KF_PIPELINES_SA_TOKEN_PATH, ServiceAccountTokenVolumeCredentials

    mounted = os.environ.get(KF_PIPELINES_SA_TOKEN_ENV, KF_PIPELINES_SA_TOKEN_PATH)
    configuration.api_key_prefix["authorization"] = "Bearer"
    if os.environ.get(TOKEN):
        configuration.api_key["authorization"] = os.environ[TOKEN]
    elif Path(mounted).exists():
        # The token is renewed while a run is watched: the hook reads it again before each request.
        configuration.api_key["authorization"] = "read by the hook"
        configuration.refresh_api_key_hook = ServiceAccountTokenVolumeCredentials(mounted).refresh_api_key_hook
    elif token := id_token(AUDIENCE):
        configuration.api_key["authorization"] = token


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, ApiException):
        passes = error.status in (0, 429) or (error.status is not None and error.status >= 500)
        return passes and "CERTIFICATE" not in str(error.reason).upper()
    return isinstance(error, urllib3.exceptions.HTTPError) and not isinstance(
        error, urllib3.exceptions.LocationValueError
    )


def _message(error: ApiException) -> str:
    """The server's own words, in one line."""
    try:
        body = json.loads(error.body or "")
        said = body.get("message") or body.get("error") or error.reason
    except (TypeError, ValueError, AttributeError):
        said = error.reason or error.body
    return " ".join(str(said).split())[:300]
