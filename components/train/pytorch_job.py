"""The PyTorchJob (kubeflow.org/v1) of a distributed training: what the section `cluster` asks for, as its manifest.

`template` is made where the pipeline is compiled; `fill` adds, where the training is launched, what only a run knows.
Workers only, and elastic: with a master, the operator gives workers an init container that restricted pod security
refuses.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from trm.cluster import ClusterParams, JobParams, Resources
from trm.section import whole

GROUP, VERSION, PLURAL, KIND = "kubeflow.org", "v1", "pytorchjobs", "PyTorchJob"
CONTAINER = "pytorch"
"""The name by which the operator finds the container that trains."""
HASH, KEEP = "trm/spec-hash", "trm/keep"
"""Annotations: what the job was made of, and whether it outlives the run."""
KEY = "trm/key"
"""A label: the beginning of the content key."""
NODE_ENV = {
    # A collective that failed ends its process, which torchrun starts again, instead of hanging.
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
    # A process whose peers have gone silent ends after so many seconds.
    "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": "300",
    "NCCL_DEBUG": "WARN",
    # A new group of processes gets a store of its own; sharing torchrun's hung after a kill in 2 of 5 tries.
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
}


def template(cluster: ClusterParams) -> dict[str, Any]:
    """The manifest of the jobs of a cluster, without name, key and command; {} where stage `train` needs no job."""
    if cluster.job is None:
        return {}
    from kubeflow.training import models
    from kubernetes import client

    job, resources = cluster.job, cluster.stages.get("train", Resources())
    worker = models.KubeflowOrgV1ReplicaSpec(
        replicas=job.max_workers,
        # A worker that was killed or evicted (128 and above) is made anew, one that failed ends the job: see worker.py.
        restart_policy="ExitCode",
        template=client.V1PodTemplateSpec(
            metadata=client.V1ObjectMeta(
                labels=_labels(),
                # A mesh's proxy would outlive the training, and the pod with it.
                annotations={"sidecar.istio.io/inject": "false"},
            ),
            spec=_pod(cluster, job, resources),
        ),
    )
    # Nodes come one by one, some after hours in a queue: the job's deadline bounds the wait for them, nothing else.
    patience = models.KubeflowOrgV1RDZVConf(key="join_timeout", value=str(job.deadline_seconds))
    manifest = models.KubeflowOrgV1PyTorchJob(
        api_version=f"{GROUP}/{VERSION}",
        kind=KIND,
        metadata=client.V1ObjectMeta(
            labels=_labels(), annotations={KEEP: json.dumps(job.keep)}, namespace=cluster.namespace
        ),
        spec=models.KubeflowOrgV1PyTorchJobSpec(
            nproc_per_node=str(processes(job, resources)),
            pytorch_replica_specs={"Worker": worker},
            elastic_policy=models.KubeflowOrgV1ElasticPolicy(
                min_replicas=job.min_workers,
                max_replicas=job.max_workers,
                max_restarts=job.max_restarts,
                rdzv_backend="c10d",
                rdzv_conf=[patience],
            ),
            run_policy=models.KubeflowOrgV1RunPolicy(
                clean_pod_policy="Running",  # pods that ended stay, with their logs
                ttl_seconds_after_finished=job.ttl_seconds,
                active_deadline_seconds=job.deadline_seconds,  # the one bound on workers made anew
                backoff_limit=job.max_restarts + 1,  # 0 would end the job with the first eviction
            ),
        ),
    )
    made: Any = client.ApiClient().sanitize_for_serialization(manifest)
    return made


def processes(job: JobParams, resources: Resources) -> int:
    """Processes of a worker."""
    return job.processes_per_worker or max(resources.gpus, 1)


def fill(
    template: Mapping[str, Any], command: list[str], key: str, root: str, owner: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The manifest of one training: `trm <command>`, whose content key is `key` and whose root in S3 is `root`.

    `owner` are the name and the uid of the launcher's pod: when it is deleted, so is a job that is not to be kept.
    """
    job = _whole(template)  # Kubeflow carries numbers as doubles
    metadata, spec = job["metadata"], job["spec"]
    workers = spec["pytorchReplicaSpecs"]["Worker"]["template"]
    (container,) = workers["spec"]["containers"]
    container["args"] = [f"--nproc-per-node={spec['nprocPerNode']}", *command]
    container["env"] = [*container["env"], {"name": "TRM_STATE_DIR", "value": f"{root}/states"}]
    workers["metadata"]["labels"][KEY] = metadata["labels"][KEY] = key[:63]  # so long a label may be
    metadata["name"] = job_name(key)
    metadata["annotations"][HASH] = spec_hash(spec)
    if owner and not json.loads(metadata["annotations"][KEEP]):
        metadata["ownerReferences"] = [{"apiVersion": "v1", "kind": "Pod", **owner}]
    return job


def job_name(key: str) -> str:
    """A DNS-1035 name with room for what the operator appends for its pods."""
    return f"trm-{key[:12]}"


def spec_hash(spec: Mapping[str, Any]) -> str:
    """SHA-256 of the one JSON text of a job's spec."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _whole(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _whole(each) for name, each in value.items()}
    return [_whole(each) for each in value] if isinstance(value, list) else whole(value)


def _labels() -> dict[str, str]:
    return {"app.kubernetes.io/name": "trm", "app.kubernetes.io/component": "train"} | {
        "app.kubernetes.io/managed-by": "trm-launcher"
    }


def _pod(cluster: ClusterParams, job: JobParams, resources: Resources) -> Any:
    from kubernetes import client

    empty = client.V1EmptyDirVolumeSource()
    claim = client.V1PersistentVolumeClaimVolumeSource
    cache = {"persistent_volume_claim": claim(cluster.cache_claim)} if cluster.cache_claim else {"empty_dir": empty}
    memory = client.V1EmptyDirVolumeSource(medium="Memory", size_limit=job.shared_memory)
    asked = {"cpu": resources.cpu, "memory": resources.memory, resources.gpu_resource: resources.gpus or None}
    asked = {name: str(amount) for name, amount in asked.items() if amount is not None}
    return client.V1PodSpec(
        service_account_name=cluster.service_account,
        automount_service_account_token=False,  # a worker asks nothing of Kubernetes
        security_context=client.V1PodSecurityContext(
            run_as_non_root=True,
            fs_group=10001,  # the image's user may write to a claim
            seccomp_profile=client.V1SeccompProfile(type="RuntimeDefault"),
        ),
        containers=[
            client.V1Container(
                name=CONTAINER,
                image=cluster.image,
                command=["python", "-m", "components.train.worker"],
                env=_environment(cluster, job, resources),
                resources=client.V1ResourceRequirements(requests=asked, limits=asked) if asked else None,
                security_context=client.V1SecurityContext(
                    allow_privilege_escalation=False,
                    read_only_root_filesystem=True,
                    run_as_non_root=True,
                    capabilities=client.V1Capabilities(drop=["ALL"]),
                ),
                termination_message_policy="FallbackToLogsOnError",  # the pod's last words stay in its status
                volume_mounts=[
                    client.V1VolumeMount(name="cache", mount_path="/cache"),
                    client.V1VolumeMount(name="shared-memory", mount_path="/dev/shm"),
                ],
            )
        ],
        volumes=[
            client.V1Volume(name="cache", **cache),
            client.V1Volume(name="shared-memory", empty_dir=memory),
        ],
        node_selector=resources.node_selector or None,
        tolerations=[
            client.V1Toleration(
                key=each.key,
                operator="Exists" if each.value is None else "Equal",
                value=each.value,
                effect=each.effect,
            )
            for each in resources.tolerations
        ]
        or None,
        image_pull_secrets=[client.V1LocalObjectReference(cluster.image_pull_secret)]
        if cluster.image_pull_secret
        else None,
    )


def _environment(cluster: ClusterParams, job: JobParams, resources: Resources) -> list[Any]:
    from kubernetes import client

    values = dict(NODE_ENV)
    if resources.cpu:
        cores = float(resources.cpu.removesuffix("m")) / (1000 if resources.cpu.endswith("m") else 1)
        values["OMP_NUM_THREADS"] = str(max(int(cores / processes(job, resources)), 1))
    if cluster.s3_endpoint:
        values["AWS_ENDPOINT_URL_S3"] = cluster.s3_endpoint
    if cluster.s3_region:
        values["AWS_DEFAULT_REGION"] = cluster.s3_region
    made = [client.V1EnvVar(name=name, value=value) for name, value in values.items()]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if cluster.s3_secret else ():
        reference = client.V1SecretKeySelector(name=cluster.s3_secret, key=name)
        made.append(client.V1EnvVar(name=name, value_from=client.V1EnvVarSource(secret_key_ref=reference)))
    return made
