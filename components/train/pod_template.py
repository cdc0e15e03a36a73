"""The pod of a worker, which the back ends share: from section `cluster` to the models of the Kubernetes client."""

from collections.abc import Sequence
from typing import Any

from components.train.backend import KEY_LABEL, TRAIN, processes_per_worker
from trm.config.cluster import ClusterParams, TrainJobParams
from trm.config.pods import NodeAffinity, PodAffinity, Resources, TopologySpread, Volume
from trm.utils.metrics_server import PORT

STATE_DIR, LOCAL_STATES = "TRM_STATE_DIR", "/cache/states"
"""Variable with the folder or URI of the training states, and the folder of states that are not copied to S3."""
S3_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
"""Keys of the secret `cluster.s3_secret`, and the variables that get them."""
KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"
"""Label that hands a job or pod to Kueue."""
METRICS_PORT = "trm/metrics-port"
"""Label with the port of the metrics, which selects the pods for Prometheus."""
SELECTOR = {"app.kubernetes.io/name": "trm", "app.kubernetes.io/component": TRAIN}
"""Labels of all workers."""
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


def metrics_environment(cluster: ClusterParams) -> dict[str, str]:
    """Return the environment variable that opens the port of the metrics; {} without metrics."""
    return {} if cluster.metrics_port is None else {PORT: str(cluster.metrics_port)}


def metrics_labels(cluster: ClusterParams) -> dict[str, str]:
    """Return the label of a pod with metrics; {} without metrics."""
    return {} if cluster.metrics_port is None else {METRICS_PORT: str(cluster.metrics_port)}


def default_state_root(artifact_root: str) -> str:
    """Return where training states are stored unless `cluster.state_root` is set."""
    return f"{artifact_root}/states"


def worker_labels() -> dict[str, str]:
    """Return the labels of a job and its pods."""
    return SELECTOR | {"app.kubernetes.io/managed-by": "trm-launcher"}


def job_labels(resources: Resources) -> dict[str, str]:
    """Return the labels of a job."""
    return worker_labels() | ({KUEUE_QUEUE: resources.queue} if resources.queue else {})


def pod_template(cluster: ClusterParams, job: TrainJobParams, container: str) -> Any:
    """Return the V1PodTemplateSpec of a worker, whose container has the name that the controller requires."""
    from kubernetes import client

    resources = cluster.pod(TRAIN)
    return client.V1PodTemplateSpec(
        metadata=client.V1ObjectMeta(
            labels={**resources.labels, **worker_labels(), **metrics_labels(cluster)},
            # The proxy of a service mesh would keep the pod running after the training.
            annotations={"sidecar.istio.io/inject": "false", **resources.annotations},
        ),
        spec=_pod(cluster, job, resources, container),
    )


def _pod(cluster: ClusterParams, job: TrainJobParams, resources: Resources, container: str) -> Any:
    from kubernetes import client

    limits = _limits(resources)
    return client.V1PodSpec(
        service_account_name=cluster.service_account,
        automount_service_account_token=False,  # workers do not use the Kubernetes API
        security_context=client.V1PodSecurityContext(
            run_as_non_root=True,
            fs_group=resources.fs_group,
            fs_group_change_policy=resources.fs_group_change_policy,
            seccomp_profile=client.V1SeccompProfile(type="RuntimeDefault"),
        ),
        containers=[
            client.V1Container(
                name=container,
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
                    *(
                        client.V1VolumeMount(name=f"volume-{index}", mount_path=volume.mount_path)
                        for index, volume in enumerate(resources.volumes)
                    ),
                ],
            )
        ],
        volumes=_volumes(cluster, job, resources),
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
        affinity=_affinity(resources),
        topology_spread_constraints=[_spread(each) for each in resources.topology_spread] or None,
        priority_class_name=resources.priority_class,
        runtime_class_name=resources.runtime_class,
        termination_grace_period_seconds=resources.termination_grace_period_seconds,
    )


def _limits(resources: Resources) -> dict[str, str]:
    amounts = {
        "cpu": resources.cpu,
        "memory": resources.memory,
        resources.gpu_resource: resources.gpus or None,
        "ephemeral-storage": resources.ephemeral_storage,
        **resources.extended_resources,
    }
    return {name: str(amount) for name, amount in amounts.items() if amount is not None}


def _volumes(cluster: ClusterParams, job: TrainJobParams, resources: Resources) -> list[Any]:
    from kubernetes import client

    empty = client.V1EmptyDirVolumeSource()
    claim = client.V1PersistentVolumeClaimVolumeSource
    cache = {"persistent_volume_claim": claim(cluster.cache_pvc)} if cluster.cache_pvc else {"empty_dir": empty}
    memory = client.V1EmptyDirVolumeSource(medium="Memory", size_limit=job.shared_memory)

    def source(volume: Volume) -> dict[str, Any]:
        if volume.secret:
            return {"secret": client.V1SecretVolumeSource(secret_name=volume.secret)}
        if volume.config_map:
            return {"config_map": client.V1ConfigMapVolumeSource(name=volume.config_map)}
        if volume.pvc:
            return {"persistent_volume_claim": claim(volume.pvc)}
        return {"empty_dir": client.V1EmptyDirVolumeSource(size_limit=volume.empty_dir)}

    return [
        client.V1Volume(name="cache", **cache),
        client.V1Volume(name="shared-memory", empty_dir=memory),
        *(client.V1Volume(name=f"volume-{index}", **source(each)) for index, each in enumerate(resources.volumes)),
    ]


def _affinity(resources: Resources) -> Any:
    from kubernetes import client

    together = [each for each in resources.pod_affinity if not each.apart]
    apart = [each for each in resources.pod_affinity if each.apart]
    if not resources.node_affinity and not resources.pod_affinity:
        return None
    return client.V1Affinity(
        node_affinity=client.V1NodeAffinity(**_node_affinity(resources.node_affinity))
        if resources.node_affinity
        else None,
        pod_affinity=client.V1PodAffinity(**_pod_terms(together)) if together else None,
        pod_anti_affinity=client.V1PodAntiAffinity(**_pod_terms(apart)) if apart else None,
    )


def _node_affinity(settings: Sequence[NodeAffinity]) -> dict[str, Any]:
    """Return the arguments of V1NodeAffinity: one term with all requirements, and the preferences."""
    from kubernetes import client

    def expression(each: NodeAffinity) -> Any:
        return client.V1NodeSelectorRequirement(key=each.key, operator=each.operator, values=list(each.values) or None)

    required = [expression(each) for each in settings if each.weight is None]
    term, preferred = client.V1NodeSelectorTerm, client.V1PreferredSchedulingTerm
    return {
        "required_during_scheduling_ignored_during_execution": client.V1NodeSelector(
            node_selector_terms=[term(match_expressions=required)]
        )
        if required
        else None,
        "preferred_during_scheduling_ignored_during_execution": [
            preferred(weight=each.weight, preference=term(match_expressions=[expression(each)]))
            for each in settings
            if each.weight is not None
        ]
        or None,
    }


def _pod_terms(settings: Sequence[PodAffinity]) -> dict[str, Any]:
    """Return the arguments of V1PodAffinity and V1PodAntiAffinity."""
    from kubernetes import client

    def term(each: PodAffinity) -> Any:
        return client.V1PodAffinityTerm(topology_key=each.topology_key, **_same_job())

    return {
        "required_during_scheduling_ignored_during_execution": [term(each) for each in settings if each.weight is None]
        or None,
        "preferred_during_scheduling_ignored_during_execution": [
            client.V1WeightedPodAffinityTerm(weight=each.weight, pod_affinity_term=term(each))
            for each in settings
            if each.weight is not None
        ]
        or None,
    }


def _spread(setting: TopologySpread) -> Any:
    from kubernetes import client

    return client.V1TopologySpreadConstraint(
        topology_key=setting.topology_key,
        max_skew=setting.max_skew,
        when_unsatisfiable=setting.when_unsatisfiable,
        **_same_job(),
    )


def _same_job() -> dict[str, Any]:
    """Select the workers with the pod's own content key. Kubernetes before 1.29 ignores the key: all workers count."""
    from kubernetes import client

    return {"label_selector": client.V1LabelSelector(match_labels=SELECTOR), "match_label_keys": [KEY_LABEL]}


def _environment(cluster: ClusterParams, job: TrainJobParams, resources: Resources) -> list[Any]:
    from kubernetes import client

    values = NODE_ENV | state_environment(cluster) | metrics_environment(cluster)
    if resources.cpu:
        cores = float(resources.cpu.removesuffix("m")) / (1000 if resources.cpu.endswith("m") else 1)
        values["OMP_NUM_THREADS"] = str(max(int(cores / processes_per_worker(job, resources)), 1))
    if cluster.s3_endpoint:
        values["AWS_ENDPOINT_URL_S3"] = cluster.s3_endpoint
    if cluster.s3_region:
        values["AWS_DEFAULT_REGION"] = cluster.s3_region
    values |= resources.env
    variables = [client.V1EnvVar(name=name, value=value) for name, value in values.items()]
    secrets = {name: (each.secret, each.key) for name, each in resources.secret_env.items()}
    for name in S3_KEYS if cluster.s3_secret else ():
        secrets[name] = (str(cluster.s3_secret), name)
    for name, (secret, key) in secrets.items():
        reference = client.V1SecretKeySelector(name=secret, key=key)
        variables.append(client.V1EnvVar(name=name, value_from=client.V1EnvVarSource(secret_key_ref=reference)))
    return variables
