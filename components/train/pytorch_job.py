"""Manifest of the PyTorchJob (kubeflow.org/v1) that trains on the workers of section `cluster`.

`job_template` is called when the pipeline is compiled; `fill` adds the values of one run when the job is launched. The
job is elastic and has workers only: with a master, the operator adds an init container to the workers that the
`restricted` Pod Security Standard rejects.
"""

import hashlib
import json
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from trm.config.cluster import ClusterParams, Resources, TrainJobParams

GROUP, VERSION, PLURAL, KIND = "kubeflow.org", "v1", "pytorchjobs", "PyTorchJob"
CONTAINER = "pytorch"
"""Container name that the operator requires."""
SPEC_HASH, KEEP_ON_STOP, START_TIMEOUT = "trm/spec-hash", "trm/keep-on-stop", "trm/start-timeout"
"""Annotations: SHA-256 of the spec, whether the job continues after the run is stopped, and the time in seconds that a
worker may fail to start."""
STATE_DIR, LOCAL_STATES = "TRM_STATE_DIR", "/cache/states"
"""Variable with the folder or URI of the training states, and the folder of states that are not copied to S3."""
KEY_LABEL = "trm/key"
"""Label with the first 63 digits of the content key."""
NODE_ENV = {
    # A failed collective ends its process, which torchrun restarts, instead of blocking.
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
    # Seconds after which a process ends whose peers do not respond.
    "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": "300",
    "NCCL_DEBUG": "WARN",
    # Use a new store for each process group: sharing torchrun's store blocked after a kill in 2 of 5 trials.
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
}


def state_environment(cluster: ClusterParams) -> dict[str, str]:
    """Return the environment variable that moves the training states; {}: they are below the artifact root."""
    if cluster.state_root is None:
        return {}
    return {STATE_DIR: LOCAL_STATES if cluster.state_root == "off" else cluster.state_root}


def default_state_root(artifact_root: str) -> str:
    """Return where training states are stored unless `cluster.state_root` is set."""
    return f"{artifact_root}/states"


def job_template(cluster: ClusterParams) -> dict[str, Any]:
    """Return the manifest without name, content key and command; {} if `cluster.train_job` is null."""
    if cluster.train_job is None:
        return {}
    from kubeflow.training import models
    from kubernetes import client

    job, resources = cluster.train_job, cluster.resources.get("train", Resources())
    worker = models.KubeflowOrgV1ReplicaSpec(
        replicas=job.max_workers,
        # Exit codes from 128 on (killed, evicted) recreate the worker, others end the job: see worker.py.
        restart_policy="ExitCode",
        template=client.V1PodTemplateSpec(
            metadata=client.V1ObjectMeta(
                labels=_labels(),
                # The proxy of a service mesh would keep the pod running after the training.
                annotations={"sidecar.istio.io/inject": "false"},
            ),
            spec=_pod(cluster, job, resources),
        ),
    )
    # Workers may join after hours in a queue: only the job's deadline limits the wait.
    join_timeout = models.KubeflowOrgV1RDZVConf(key="join_timeout", value=str(job.deadline_seconds))
    manifest = models.KubeflowOrgV1PyTorchJob(
        api_version=f"{GROUP}/{VERSION}",
        kind=KIND,
        metadata=client.V1ObjectMeta(
            labels=_labels(),
            annotations={
                KEEP_ON_STOP: json.dumps(job.keep_on_stop),
                START_TIMEOUT: json.dumps(job.start_timeout_seconds),
            },
            namespace=cluster.namespace,
        ),
        spec=models.KubeflowOrgV1PyTorchJobSpec(
            nproc_per_node=str(processes_per_worker(job, resources)),
            pytorch_replica_specs={"Worker": worker},
            elastic_policy=models.KubeflowOrgV1ElasticPolicy(
                min_replicas=job.min_workers,
                max_replicas=job.max_workers,
                max_restarts=job.max_restarts,
                rdzv_backend="c10d",
                rdzv_conf=[join_timeout],
            ),
            run_policy=models.KubeflowOrgV1RunPolicy(
                clean_pod_policy="Running",  # keep finished pods and their logs
                ttl_seconds_after_finished=job.ttl_seconds,
                active_deadline_seconds=job.deadline_seconds,  # the only limit on recreated workers
                backoff_limit=job.max_restarts + 1,  # 0 would end the job at the first eviction
            ),
        ),
    )
    serialized: Any = client.ApiClient().sanitize_for_serialization(manifest)
    return serialized


def processes_per_worker(job: TrainJobParams, resources: Resources) -> int:
    """Return the number of training processes of a worker: one per GPU unless set."""
    return job.processes_per_worker or max(resources.gpus, 1)


def fill(
    template: Mapping[str, Any],
    command: list[str],
    key: str,
    artifact_root: str,
    owner: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the manifest of one training.

    Args:
        template: Result of `job_template`.
        command: Arguments of `trm`.
        key: Content key of the training.
        artifact_root: Root of the artifacts in S3, and of the training states unless the template has another.
        owner: Name and uid of the launcher's pod. Kubernetes deletes the job with it, unless `keep_on_stop` is set.
    """
    job = deepcopy(dict(template))
    metadata, spec = job["metadata"], job["spec"]
    workers = spec["pytorchReplicaSpecs"]["Worker"]["template"]
    (container,) = workers["spec"]["containers"]
    container["args"] = [f"--nproc-per-node={spec['nprocPerNode']}", *command]
    if not any(variable["name"] == STATE_DIR for variable in container["env"]):
        container["env"] = [*container["env"], {"name": STATE_DIR, "value": default_state_root(artifact_root)}]
    workers["metadata"]["labels"][KEY_LABEL] = metadata["labels"][KEY_LABEL] = key[:63]  # maximum length of a label
    metadata["name"] = job_name(key)
    metadata["annotations"][SPEC_HASH] = spec_hash(spec)
    if owner and not json.loads(metadata["annotations"][KEEP_ON_STOP]):
        metadata["ownerReferences"] = [{"apiVersion": "v1", "kind": "Pod", **owner}]
    return job


def job_name(key: str) -> str:
    """Return the job's name: a DNS-1035 label, short enough for the suffixes of its pods."""
    return f"trm-{key[:12]}"


def spec_hash(spec: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical JSON of a job's spec, as hex digits."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _labels() -> dict[str, str]:
    return {"app.kubernetes.io/name": "trm", "app.kubernetes.io/component": "train"} | {
        "app.kubernetes.io/managed-by": "trm-launcher"
    }


def _pod(cluster: ClusterParams, job: TrainJobParams, resources: Resources) -> Any:
    from kubernetes import client

    empty = client.V1EmptyDirVolumeSource()
    claim = client.V1PersistentVolumeClaimVolumeSource
    cache = {"persistent_volume_claim": claim(cluster.cache_pvc)} if cluster.cache_pvc else {"empty_dir": empty}
    memory = client.V1EmptyDirVolumeSource(medium="Memory", size_limit=job.shared_memory)
    amounts = {"cpu": resources.cpu, "memory": resources.memory, resources.gpu_resource: resources.gpus or None}
    limits = {name: str(amount) for name, amount in amounts.items() if amount is not None}
    return client.V1PodSpec(
        service_account_name=cluster.service_account,
        automount_service_account_token=False,  # workers do not use the Kubernetes API
        security_context=client.V1PodSecurityContext(
            run_as_non_root=True,
            fs_group=10001,  # write access to the volume for the image's user
            seccomp_profile=client.V1SeccompProfile(type="RuntimeDefault"),
        ),
        containers=[
            client.V1Container(
                name=CONTAINER,
                image=cluster.image,
                command=["python", "-m", "components.train.worker"],
                env=_environment(cluster, job, resources),
                resources=client.V1ResourceRequirements(requests=limits, limits=limits) if limits else None,
                security_context=client.V1SecurityContext(
                    allow_privilege_escalation=False,
                    read_only_root_filesystem=True,
                    run_as_non_root=True,
                    capabilities=client.V1Capabilities(drop=["ALL"]),
                ),
                termination_message_policy="FallbackToLogsOnError",  # the pod's status keeps the end of the log
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


def _environment(cluster: ClusterParams, job: TrainJobParams, resources: Resources) -> list[Any]:
    from kubernetes import client

    values = NODE_ENV | state_environment(cluster)
    if resources.cpu:
        cores = float(resources.cpu.removesuffix("m")) / (1000 if resources.cpu.endswith("m") else 1)
        values["OMP_NUM_THREADS"] = str(max(int(cores / processes_per_worker(job, resources)), 1))
    if cluster.s3_endpoint:
        values["AWS_ENDPOINT_URL_S3"] = cluster.s3_endpoint
    if cluster.s3_region:
        values["AWS_DEFAULT_REGION"] = cluster.s3_region
    variables = [client.V1EnvVar(name=name, value=value) for name, value in values.items()]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if cluster.s3_secret else ():
        reference = client.V1SecretKeySelector(name=cluster.s3_secret, key=name)
        variables.append(client.V1EnvVar(name=name, value_from=client.V1EnvVarSource(secret_key_ref=reference)))
    return variables
