"""Program of the container of stage `train`: trains, or launches a training job and follows it until it has finished.

    python -m components.train.launcher '{{$}}' <pointer to write> JOB train --params ... --dataset <pointer>
        --model s3://...

JOB is the JSON of the job's template (`components.train.backends`); with {} the command runs in this container. The
job's name derives from the content key, so that a restarted launcher finds the running job. The stage succeeds only if
the job succeeds and its model is in S3. The exit codes are those of `trm`.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from components import run
from components.parameters import parameter_text
from components.train.backend import KEEP_ON_STOP, logs_uri
from components.train.backends import backend_of, fill
from components.train.cluster_checks import check_node_capacity, check_runtime, spec_hash_of
from components.train.job_metrics import JobMetrics
from components.train.log import log
from components.train.pod_template import STATE_DIR, default_state_root
from trm.cli.main import run_app
from trm.storage import s3
from trm.storage.artifact_cache import parse_artifact_uri
from trm.utils.errors import InternalError, Interrupted, UserError
from trm.utils.metrics_server import metrics_server
from trm.utils.output import output_may_close
from trm.utils.stop_signals import handled_signals

if TYPE_CHECKING:
    from components.train.kubernetes_client import KubernetesClient
    from components.train.worker_logs import WorkerLogs

POLL_INTERVAL = 2.0
"""Seconds between two queries of the job's status."""
STOP_TIMEOUT = 20.0
"""Seconds that an interrupted launcher waits for the job's deletion. Kubernetes kills the launcher after 30 s."""
DRAIN_TIMEOUT = 30.0
"""Seconds to read the rest of the log of a finished job."""


@output_may_close()
def main() -> NoReturn:
    """Run the container's command."""
    executor_input, pointer, template, *arguments = sys.argv[1:]
    if not json.loads(template):
        # Another pod resumes if this one is lost.
        root = arguments[arguments.index("--model") + 1].rsplit("/", 2)[0]
        os.environ.setdefault(STATE_DIR, default_state_root(root))
        sys.argv = [sys.argv[0], executor_input, pointer, *arguments]
        run.main()

    def run_stage(**_options: object) -> None:
        kubeflow = json.loads(executor_input)
        command = run.resolve_inputs(arguments)
        launch(json.loads(template), command)
        run.register_output(kubeflow["outputs"], Path(pointer), command)

    run_app(run_stage, "launcher")


@output_may_close()
def launch(template: Mapping[str, Any], command: list[str]) -> None:
    """Run `trm <command>` as a training job and return when its output is in S3. Does nothing if the output exists.

    Raises `UserError` for an invalid configuration, `InternalError` for a job that failed or was deleted,
    and `Interrupted` after SIGTERM or SIGINT, once the job is deleted (unless `keep_on_stop` is set).
    """
    uri = parse_artifact_uri(command[command.index("--model") + 1])
    root, _, key = uri.rsplit("/", 2)
    job = fill(template, _with_canonical_params(command), key, root, _launcher_pod())
    if s3.read_manifest(uri) is not None:
        log(f"{uri} exists: nothing to do")
        return
    from components.train.kubernetes_client import KubernetesClient
    from components.train.worker_logs import WorkerLogs

    followed: dict[str, Any] | None = None
    with KubernetesClient(job["metadata"].pop("namespace", None), backend_of(job)) as kubernetes:
        logs = WorkerLogs(kubernetes, logs_uri(root, key))
        try:
            followed = _get_or_create(kubernetes, job)
            metrics = JobMetrics(followed, kubernetes.backend)
            with metrics_server(metrics.values, "launcher", "the job"):
                _follow(kubernetes, followed, uri, metrics, logs)
        except (Interrupted, UserError):
            logs.close()
            _release(kubernetes, job, followed)
            raise
        finally:
            logs.finish()


def _get_or_create(kubernetes: "KubernetesClient", job: Mapping[str, Any]) -> dict[str, Any]:
    """Return the job in the cluster: a new one, or one that an earlier launcher created from the same spec.

    Raises `UserError` if a job of another spec has the name.
    """
    name, namespace, kind = job["metadata"]["name"], kubernetes.namespace, job["kind"].lower()
    while True:
        existing = kubernetes.job(name)
        if existing is None:
            check_runtime(kubernetes, job)
            check_node_capacity(kubernetes, job)
            if kubernetes.create(job):
                log(f"created job {name} in namespace {namespace}; kubectl -n {namespace} get {kind} {name}")
            continue
        finished = kubernetes.backend.state(existing).finished
        if "deletionTimestamp" in existing["metadata"]:
            log(f"waiting for the deletion of an earlier job {name}")
            time.sleep(POLL_INTERVAL)
        elif spec_hash_of(existing) != spec_hash_of(job) and not (finished and spec_hash_of(existing)):
            raise UserError(
                f"job {name} in namespace {namespace} exists with another spec; wait until it finishes, or run "
                f"`kubectl -n {namespace} delete {kind} {name}`"
            )
        elif not finished or _owner_uids(existing) & _owner_uids(job):
            log(f"following job {name} in namespace {namespace}")
            return existing
        else:
            log(f"deleting an earlier job {name}, which finished without a model in S3")
            kubernetes.delete(existing)
            _wait_until_deleted(kubernetes, existing, None)


def _follow(
    kubernetes: "KubernetesClient", job: dict[str, Any], uri: str, metrics: JobMetrics, logs: "WorkerLogs"
) -> None:
    """Log the job's status and output until it has finished and its model is in S3. Updates the status in `job`."""
    from components.train.job_status import StatusLogger, failure, newest_pods

    backend = kubernetes.backend
    name, uid = job["metadata"]["name"], job["metadata"]["uid"]
    status = StatusLogger(kubernetes)
    while True:
        current = kubernetes.job(name)
        if current is None or current["metadata"]["uid"] != uid or "deletionTimestamp" in current["metadata"]:
            if s3.read_manifest(uri) is not None:
                return  # finished and deleted by its TTL between two queries
            raise InternalError(
                f"job {name} was deleted by another client; run the stage again, it resumes from the last checkpoint"
            )
        job["status"] = current.get("status")
        pods = kubernetes.pods(current)
        newest = newest_pods(kubernetes, pods)
        logs.update(newest)
        status.update(current, pods)
        metrics.update(pods, status.oom_kills)
        if logs.error is not None:
            raise logs.error
        if backend.state(current).finished:
            break
        if error := status.start_failure(current, newest):
            raise UserError(error)
        if status.oom_kills > backend.max_restarts(current):
            raise UserError(
                f"workers were killed {status.oom_kills} times within an hour (exit code 137: usually out of memory); "
                "raise cluster.resources.train.memory, or lower train.micro_batch_size"
            )
        time.sleep(POLL_INTERVAL)
    if not logs.drain(DRAIN_TIMEOUT):
        log("the end of the log is not readable")
    if backend.state(current).name == "Failed":
        raise failure(kubernetes, current, newest)
    if s3.read_manifest(uri) is None:
        raise InternalError(f"job {name} succeeded, but {uri} has no manifest; run the stage again")


def _release(kubernetes: "KubernetesClient", job: Mapping[str, Any], followed: Mapping[str, Any] | None) -> None:
    """Delete the job, unless it has finished, has another spec, or `keep_on_stop` is set.

    A stopped pipeline run kills this process about one second after SIGTERM, so that the deletion comes before anything
    else. `followed` is the job in the cluster; None: unknown, because the launcher was interrupted while creating it.
    """
    metadata = job["metadata"]
    kubernetes.set_retry_timeout(STOP_TIMEOUT)
    with _signals_ignored():
        existing = followed or kubernetes.job(metadata["name"])
        if (
            existing is None
            or kubernetes.backend.state(existing).finished
            or spec_hash_of(existing) != spec_hash_of(job)
        ):
            return
        keep = json.loads(metadata["annotations"][KEEP_ON_STOP])
        if not keep:
            kubernetes.delete(existing)
    if keep:
        log(f"job {metadata['name']} continues (keep_on_stop)")
        return
    log(f"deleting job {metadata['name']}")
    if not _wait_until_deleted(kubernetes, existing, STOP_TIMEOUT):
        log(f"the deletion of job {metadata['name']} is in progress")


@contextmanager
def _signals_ignored() -> Iterator[None]:
    """Ignore further signals: Argo and the kubelet both send one."""
    old = {number: signal.signal(number, signal.SIG_IGN) for number in handled_signals()}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _wait_until_deleted(kubernetes: "KubernetesClient", job: Mapping[str, Any], timeout: float | None) -> bool:
    """Wait until the job and its pods are deleted. Return False after `timeout` seconds (None: no limit)."""
    started = time.monotonic()
    while True:
        existing = kubernetes.job(job["metadata"]["name"])
        same = existing is not None and existing["metadata"]["uid"] == job["metadata"]["uid"]
        if not same and not kubernetes.pods(job):
            return True
        if timeout is not None and time.monotonic() - started > timeout:
            return False
        time.sleep(0.2)


def _with_canonical_params(command: list[str]) -> list[str]:
    """Return the command with its params as canonical JSON: equal params must give equal spec hashes."""
    from trm.stages.params import load_sections

    index = command.index("--params") + 1
    sections = load_sections(command[index], ("model", "train"))
    text = parameter_text({name: section.model_dump(mode="json") for name, section in sections.items()})
    return [*command[:index], text, *command[index + 1 :]]


def _launcher_pod() -> dict[str, str] | None:
    """Return name and uid of the pod in which the launcher runs; None outside of the pipeline."""
    name, uid = os.environ.get("POD_NAME"), os.environ.get("POD_UID")
    return {"name": name, "uid": uid} if name and uid else None


def _owner_uids(job: Mapping[str, Any]) -> set[str]:
    return {owner["uid"] for owner in job["metadata"].get("ownerReferences", ())}


if __name__ == "__main__":
    main()
