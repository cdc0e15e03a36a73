"""The container of stage `train` on a cluster: trains by itself, or has a PyTorchJob train and stays until it has.

    python -m components.train.launcher '{{$}}' <pointer to write> JOB train --params … --dataset <pointer> --model s3://…

JOB is the job's template as JSON (`components.train.pytorch_job`); with {} the command is run here. The job's name comes from
the content key, so that a launcher that was started again finds the job that runs. The exit codes are `trm`'s; the
stage has succeeded only if the job did and its model is in S3.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from components import run
from components.train.log import say
from components.train.pytorch_job import HASH, KEEP, fill
from trm import s3
from trm.cli import run_app
from trm.errors import Fault, Interrupted, UserError
from trm.mirror import artifact_uri

if TYPE_CHECKING:
    from components.train.kubernetes_client import Cluster

POLL = 2.0
"""Seconds between two looks."""
STOPS_WITHIN = 20.0
"""Seconds that a stopped launcher waits for its job to go; Kubernetes kills it after 30."""
DRAIN = 30.0
"""Seconds for the end of the log of a job that has ended."""


def main() -> NoReturn:
    """Run the container's command."""
    executor_input, pointer, template, *given = sys.argv[1:]
    if not json.loads(template):
        sys.argv = [sys.argv[0], executor_input, pointer, *given]
        run.main()

    def stage() -> None:
        kubeflow = json.loads(executor_input)
        command = run.resolved(given, kubeflow["inputs"].get("artifacts", {}))
        launch(json.loads(template), command)
        run.report(kubeflow["outputs"], Path(pointer), command)

    run_app(stage, "launcher")  # pyright: ignore[reportArgumentType] - anything that can be called


def launch(template: Mapping[str, Any], command: list[str]) -> None:
    """Have a job of `template` run `trm <command>`, unless its output is in S3 already; returns when it is there.

    Raises `UserError` for what the user can mend, `Fault` for a job that failed or was deleted, `Interrupted` after
    SIGTERM or SIGINT, when it has deleted the job (unless told to keep it).
    """
    uri = artifact_uri(command[command.index("--model") + 1])
    root, _, key = uri.rsplit("/", 2)
    job = fill(template, _canonical(command), key, root, _owner())
    if s3.read_manifest(uri) is not None:
        say(f"{uri} is there already: nothing to do")
        return
    from components.train.kubernetes_client import Cluster

    cluster = Cluster(job["metadata"].pop("namespace", None))
    try:
        _stay(cluster, _claim(cluster, job), uri)
    except (Interrupted, UserError):
        _let_go(cluster, job)
        raise


def _claim(cluster: "Cluster", job: Mapping[str, Any]) -> dict[str, Any]:
    """The job in the cluster: this one, or the one that an earlier launcher made of the same spec.

    Raises `UserError` where a job of another spec has the name.
    """
    from components.train.job_status import has_ended

    name, where = job["metadata"]["name"], cluster.namespace
    while True:
        found = cluster.job(name)
        if found is None:
            _refuse_what_no_node_has(cluster, job)
            if cluster.create(job):
                say(f"created job {name} in namespace {where}; kubectl -n {where} get pytorchjob {name}")
            continue
        ended = has_ended(found)
        if "deletionTimestamp" in found["metadata"]:
            say(f"an earlier job {name} is being deleted; waiting")
            time.sleep(POLL)
        elif _hash(found) != _hash(job) and not (ended and _hash(found)):
            raise UserError(
                f"job {name} in namespace {where} is there with another spec; wait for its end, or "
                f"`kubectl -n {where} delete pytorchjob {name}`"
            )
        elif not ended or _owners(found) & _owners(job):
            say(f"follows job {name} in namespace {where}")
            return found
        else:
            say(f"an earlier job {name} has ended without a model in S3; deleting it, to start again")
            cluster.delete(found)
            _wait_until_gone(cluster, found, None)


def _refuse_what_no_node_has(cluster: "Cluster", job: Mapping[str, Any]) -> None:
    """Workers that ask for more GPUs than any node has would wait for ever."""
    pod = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    limits = pod["containers"][0].get("resources", {}).get("limits", {})
    for resource in limits.keys() - {"cpu", "memory"}:
        most = cluster.most_on_a_node(resource, pod.get("nodeSelector") or {})
        if most is not None and int(limits[resource]) > most:
            raise UserError(
                f"a worker asks for {limits[resource]} {resource} and no node has more than {most}; lower "
                "cluster.stages.train.gpus, or name a type of nodes in cluster.stages.train.node_selector"
            )


def _stay(cluster: "Cluster", held: Mapping[str, Any], uri: str) -> None:
    """Stay with the job until it has ended, and its model is in S3."""
    from components.train.job_status import News, condition, failure, has_ended, hopeless
    from components.train.kubernetes_client import number
    from components.train.pod_logs import Follower

    name, uid = held["metadata"]["name"], held["metadata"]["uid"]
    follower, news = Follower(cluster), News(cluster)
    while True:
        found = cluster.job(name)
        if found is None or found["metadata"]["uid"] != uid or "deletionTimestamp" in found["metadata"]:
            if s3.read_manifest(uri) is not None:
                return  # its time to live was over before we saw that it had ended
            raise Fault(f"job {name} was deleted by another; run the stage again, it goes on from its last state")
        pods = cluster.pods(found)
        for pod in pods:
            if number(pod) == 0:
                follower.show(pod)
        news.look(found, pods)
        if follower.problem is not None:
            raise follower.problem
        if has_ended(found):
            break
        if problem := hopeless(pods):
            raise UserError(problem)
        if news.kills > found["spec"]["elasticPolicy"]["maxRestarts"]:
            raise UserError(
                f"workers were killed {news.kills} times within an hour (exit code 137: mostly for want of memory); "
                "raise cluster.stages.train.memory, or lower train.micro_batch_size"
            )
        time.sleep(POLL)
    if not follower.drain(DRAIN):
        say("the end of the log could not be read")
    if condition(found)[0] == "Failed":
        raise failure(cluster, found, pods)
    if s3.read_manifest(uri) is None:
        raise Fault(f"job {name} succeeded, but {uri} holds no model; run the stage again")


def _let_go(cluster: "Cluster", job: Mapping[str, Any]) -> None:
    """Delete the job unless it is to be kept, has ended, or is another's."""
    from components.train.job_status import has_ended

    metadata = job["metadata"]
    found = cluster.job(metadata["name"])
    if found is None or has_ended(found) or _hash(found) != _hash(job):
        return
    if json.loads(metadata["annotations"][KEEP]):
        say(f"job {metadata['name']} is kept and goes on")
        return
    say(f"deleting job {metadata['name']}")
    cluster.delete(found)
    if not _wait_until_gone(cluster, found, STOPS_WITHIN):
        say(f"job {metadata['name']} is being deleted")


def _wait_until_gone(cluster: "Cluster", job: Mapping[str, Any], seconds: float | None) -> bool:
    """Wait for the job and its pods to be gone; False where that takes longer."""
    started = time.monotonic()
    while True:
        found = cluster.job(job["metadata"]["name"])
        same = found is not None and found["metadata"]["uid"] == job["metadata"]["uid"]
        if not same and not cluster.pods(job):
            return True
        if seconds is not None and time.monotonic() - started > seconds:
            return False
        time.sleep(0.2)


def _canonical(command: list[str]) -> list[str]:
    """The command with the one JSON text of its params, whoever wrote it: the spec's hash is of bytes."""
    from trm.config import canonical_json, load_sections

    place = command.index("--params") + 1
    sections = load_sections(command[place], ("model", "train"))
    text = canonical_json({name: section.model_dump(mode="json") for name, section in sections.items()})
    return [*command[:place], text, *command[place + 1 :]]


def _owner() -> dict[str, str] | None:
    """The pod that this runs in, where Kubernetes tells it."""
    name, uid = os.environ.get("POD_NAME"), os.environ.get("POD_UID")
    return {"name": name, "uid": uid} if name and uid else None


def _hash(job: Mapping[str, Any]) -> str | None:
    return job["metadata"].get("annotations", {}).get(HASH)


def _owners(job: Mapping[str, Any]) -> set[str]:
    return {owner["uid"] for owner in job["metadata"].get("ownerReferences", ())}


if __name__ == "__main__":
    main()
