"""Every key of section `cluster`, and where it is seen in the objects that are made from it."""

from typing import Any, NamedTuple

FULL: dict[str, Any] = {
    "namespace": "settings",
    "service_account": "trainer",
    "artifact_root": "s3://bucket/root",
    "state_root": "s3://bucket/states",
    "max_retries": 2,
    "retry_backoff_seconds": 7,
    "s3_endpoint": "http://s3.trm:8333",
    "s3_region": "eu-1",
    "s3_secret": "trm-s3",
    "image": "registry/trm@sha256:1",
    "image_pull_secret": "pull",
    "cache_pvc": "caches",
    "metrics_port": 9400,
    "notify": {"secret": "hook", "when": "finished"},
    "pods": {
        "env": {"HTTPS_PROXY": "http://proxy:3128"},
        "secret_env": {"WANDB_API_KEY": {"secret": "wandb", "key": "api-key"}},
        "labels": {"team": "puzzles"},
        "annotations": {"example.org/owner": "a@b"},
        "volumes": [
            {"mount_path": "/etc/ca", "secret": "ca"},
            {"mount_path": "/etc/conf", "config_map": "conf"},
            {"mount_path": "/data", "pvc": "data"},
            {"mount_path": "/scratch", "empty_dir": "1Gi"},
        ],
        "node_selector": {"pool": "gpu"},
        "tolerations": [{"key": "gpu", "effect": "NoSchedule"}, {"key": "team", "value": "a"}],
        "node_affinity": [
            {"key": "zone", "values": ["a", "b"]},
            {"key": "spot", "operator": "DoesNotExist"},
            {"key": "fast", "operator": "Exists", "weight": 5},
        ],
    },
    "resources": {
        "evaluate": {"cpu": "2", "memory": "4Gi", "gpus": 1, "queue": "stages", "env": {"A": "b"}},
        "train": {
            "cpu": "8",
            "memory": "32Gi",
            "gpus": 4,
            "gpu_resource": "amd.com/gpu",
            "queue": "jobs",
            "env": {"NCCL_IB_HCA": "mlx5"},
            "extended_resources": {"rdma/hca_shared_devices_a": 1},
            "ephemeral_storage": "20Gi",
            "priority_class": "high",
            "runtime_class": "nvidia",
            "termination_grace_period_seconds": 120,
            "fs_group": 20002,
            "fs_group_change_policy": "OnRootMismatch",
            "pod_affinity": [
                {"topology_key": "topology.kubernetes.io/zone", "weight": 10},
                {"topology_key": "kubernetes.io/hostname", "apart": True},
            ],
            "topology_spread": [{"topology_key": "rack", "max_skew": 2, "when_unsatisfiable": "ScheduleAnyway"}],
        },
    },
    "train_job": {
        "min_workers": 2,
        "max_workers": 2,
        "processes_per_worker": 4,
        "max_restarts": 5,
        "start_timeout_seconds": 60,
        "shared_memory": "2Gi",
        "deadline_seconds": 3600,
        "keep_on_stop": True,
        "gang": {"scheduler": "volcano", "queue": "volcano-queue", "min_available": 2},
        "runtime": "trm-test",
    },
}
"""All settings that have an effect on objects. `backend` and the settings of one back end are added by the tests."""

RUNTIME = "TrainingRuntime"
NODE = "spec.template.spec.replicatedJobs[0].template.spec"
REQUIRED, PREFERRED = (f"{kind}DuringSchedulingIgnoredDuringExecution" for kind in ("required", "preferred"))
LABELS = {"app.kubernetes.io/name": "trm", "app.kubernetes.io/component": "train"}
OWN_KEY = {"labelSelector": {"matchLabels": LABELS}, "matchLabelKeys": ["trm/key"]}
"""The part of the terms about other workers. Pods of Kubernetes 1.20 have no matchLabelKeys."""
SECRET = {"valueFrom": {"secretKeyRef": {"name": "trm-s3", "key": "AWS_SECRET_ACCESS_KEY"}}}


class Seen(NamedTuple):
    """Where a setting is seen. Paths are dotted, `name[key=value]` selects an item of a list; "" is nowhere."""

    setting: str
    pod: str = ""
    """Path in the pod of a worker, of both back ends."""
    value: Any = None
    """Expected value at `pod`, or in the jobs. A mapping may have further keys."""
    pytorchjob: str = ""
    trainjob: str = ""
    """Path in the job. After `TrainingRuntime: ` it is in the runtime."""
    stage: str = ""
    """Path in the compiled pipeline: `executor` is the container, `platform` the part for Kubernetes."""
    stage_value: Any = None


CONTAINER = "spec.containers[0]"
ROWS = (
    Seen("kfp_host"),
    Seen("namespace", "", "settings", "metadata.namespace", "metadata.namespace"),
    Seen("service_account", "spec.serviceAccountName", "trainer"),
    Seen("artifact_root"),
    Seen("state_root", f"{CONTAINER}.env[name=TRM_STATE_DIR].value", "s3://bucket/states"),
    Seen("max_retries", stage="task.retryPolicy.maxRetryCount", stage_value=2),
    Seen("retry_backoff_seconds", stage="task.retryPolicy.backoffDuration", stage_value="7s"),
    Seen(
        "s3_endpoint",
        f"{CONTAINER}.env[name=AWS_ENDPOINT_URL_S3].value",
        "http://s3.trm:8333",
        stage="executor.env[name=AWS_ENDPOINT_URL_S3].value",
        stage_value="http://s3.trm:8333",
    ),
    Seen(
        "s3_region",
        f"{CONTAINER}.env[name=AWS_DEFAULT_REGION].value",
        "eu-1",
        stage="executor.env[name=AWS_DEFAULT_REGION].value",
        stage_value="eu-1",
    ),
    Seen(
        "s3_secret",
        f"{CONTAINER}.env[name=AWS_SECRET_ACCESS_KEY]",
        SECRET,
        stage="platform.secretAsEnv[1].secretName",
        stage_value="trm-s3",
    ),
    Seen(
        "image",
        f"{CONTAINER}.image",
        "registry/trm@sha256:1",
        stage="executor.image",
        stage_value="registry/trm@sha256:1",
    ),
    Seen(
        "image_pull_secret",
        "spec.imagePullSecrets[0].name",
        "pull",
        stage="platform.imagePullSecret[0].secretName",
        stage_value="pull",
    ),
    Seen(
        "cache_pvc",
        "spec.volumes[name=cache].persistentVolumeClaim.claimName",
        "caches",
        stage="platform.pvcMount[mountPath=/cache].constant",
        stage_value="caches",
    ),
    Seen(
        "pods.env",
        f"{CONTAINER}.env[name=HTTPS_PROXY].value",
        "http://proxy:3128",
        stage="executor.env[name=HTTPS_PROXY].value",
        stage_value="http://proxy:3128",
    ),
    Seen(
        "pods.secret_env.NAME.secret",
        f"{CONTAINER}.env[name=WANDB_API_KEY].valueFrom.secretKeyRef.name",
        "wandb",
        stage="platform.secretAsEnv[0].secretName",
        stage_value="wandb",
    ),
    Seen(
        "pods.secret_env.NAME.key",
        f"{CONTAINER}.env[name=WANDB_API_KEY].valueFrom.secretKeyRef.key",
        "api-key",
        stage="platform.secretAsEnv[0].keyToEnv[0]",
        stage_value={"secretKey": "api-key", "envVar": "WANDB_API_KEY"},
    ),
    Seen(
        "pods.labels",
        "metadata.labels.team",
        "puzzles",
        stage="platform.podMetadata.labels.team",
        stage_value="puzzles",
    ),
    Seen(
        "pods.annotations",
        "metadata.annotations",
        {"example.org/owner": "a@b"},
        stage="platform.podMetadata.annotations",
        stage_value={"example.org/owner": "a@b"},
    ),
    Seen(
        "pods.volumes[].mount_path",
        f"{CONTAINER}.volumeMounts[name=volume-0].mountPath",
        "/etc/ca",
        stage="platform.secretAsVolume[0].mountPath",
        stage_value="/etc/ca",
    ),
    Seen(
        "pods.volumes[].secret",
        "spec.volumes[name=volume-0].secret.secretName",
        "ca",
        stage="platform.secretAsVolume[0].secretName",
        stage_value="ca",
    ),
    Seen(
        "pods.volumes[].config_map",
        "spec.volumes[name=volume-1].configMap.name",
        "conf",
        stage="platform.configMapAsVolume[0].configMapName",
        stage_value="conf",
    ),
    Seen(
        "pods.volumes[].pvc",
        "spec.volumes[name=volume-2].persistentVolumeClaim.claimName",
        "data",
        stage="platform.pvcMount[mountPath=/data].constant",
        stage_value="data",
    ),
    Seen(
        "pods.volumes[].empty_dir",
        "spec.volumes[name=volume-3].emptyDir.sizeLimit",
        "1Gi",
        stage="platform.emptyDirMounts[0].sizeLimit",
        stage_value="1Gi",
    ),
    Seen(
        "pods.node_selector",
        "spec.nodeSelector",
        {"pool": "gpu"},
        stage="platform.nodeSelector.labels",
        stage_value={"pool": "gpu"},
    ),
    Seen(
        "pods.tolerations[].key",
        "spec.tolerations[0].key",
        "gpu",
        stage="platform.tolerations[0].key",
        stage_value="gpu",
    ),
    Seen(
        "pods.tolerations[].value",
        "spec.tolerations[1]",
        {"operator": "Equal", "value": "a"},
        stage="platform.tolerations[1]",
        stage_value={"operator": "Equal", "value": "a"},
    ),
    Seen(
        "pods.tolerations[].effect",
        "spec.tolerations[0]",
        {"operator": "Exists", "effect": "NoSchedule"},
        stage="platform.tolerations[0]",
        stage_value={"operator": "Exists", "effect": "NoSchedule"},
    ),
    Seen(
        "pods.node_affinity[].key",
        f"spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms[0].matchExpressions[0]",
        {"key": "zone"},
        stage="platform.nodeAffinity[0].matchExpressions[0]",
        stage_value={"key": "zone"},
    ),
    Seen(
        "pods.node_affinity[].operator",
        f"spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms[0].matchExpressions[1].operator",
        "DoesNotExist",
        stage="platform.nodeAffinity[0].matchExpressions[1].operator",
        stage_value="DoesNotExist",
    ),
    Seen(
        "pods.node_affinity[].values",
        f"spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms[0].matchExpressions[0].values",
        ["a", "b"],
        stage="platform.nodeAffinity[0].matchExpressions[0].values",
        stage_value=["a", "b"],
    ),
    Seen(
        "pods.node_affinity[].weight",
        f"spec.affinity.nodeAffinity.{PREFERRED}[0].weight",
        5,
        stage="platform.nodeAffinity[1].weight",
        stage_value=5,
    ),
    Seen(
        "resources.STAGE.cpu",
        f"{CONTAINER}.resources.limits.cpu",
        "8",
        stage="executor.resources.resourceCpuLimit",
        stage_value="2",
    ),
    Seen(
        "resources.STAGE.memory",
        f"{CONTAINER}.resources.limits.memory",
        "32Gi",
        stage="executor.resources.resourceMemoryLimit",
        stage_value="4Gi",
    ),
    Seen(
        "resources.STAGE.gpus",
        f"{CONTAINER}.resources.limits",
        {"amd.com/gpu": "4"},
        stage="executor.resources.accelerator.resourceCount",
        stage_value="1",
    ),
    Seen(
        "resources.STAGE.gpu_resource",
        f"{CONTAINER}.resources.limits",
        {"amd.com/gpu": "4"},
        stage="executor.resources.accelerator.resourceType",
        stage_value="nvidia.com/gpu",
    ),
    Seen(
        "resources.STAGE.queue",
        "",
        {"kueue.x-k8s.io/queue-name": "jobs"},
        "metadata.labels",
        "metadata.labels",
        stage="platform.podMetadata.labels",
        stage_value={"kueue.x-k8s.io/queue-name": "stages"},
    ),
    Seen("resources.STAGE.extended_resources", f"{CONTAINER}.resources.limits", {"rdma/hca_shared_devices_a": "1"}),
    Seen("resources.STAGE.ephemeral_storage", f"{CONTAINER}.resources.limits", {"ephemeral-storage": "20Gi"}),
    Seen("resources.STAGE.priority_class", "spec.priorityClassName", "high"),
    Seen("resources.STAGE.runtime_class", "spec.runtimeClassName", "nvidia"),
    Seen("resources.STAGE.termination_grace_period_seconds", "spec.terminationGracePeriodSeconds", 120),
    Seen("resources.STAGE.fs_group", "spec.securityContext.fsGroup", 20002),
    Seen("resources.STAGE.fs_group_change_policy", "spec.securityContext.fsGroupChangePolicy", "OnRootMismatch"),
    Seen(
        "resources.STAGE.pod_affinity[].topology_key",
        f"spec.affinity.podAntiAffinity.{REQUIRED}[0]",
        {"topologyKey": "kubernetes.io/hostname", **OWN_KEY},
    ),
    Seen(
        "resources.STAGE.pod_affinity[].apart",
        f"spec.affinity.podAntiAffinity.{REQUIRED}[0].topologyKey",
        "kubernetes.io/hostname",
    ),
    Seen(
        "resources.STAGE.pod_affinity[].weight",
        f"spec.affinity.podAffinity.{PREFERRED}[0]",
        {"weight": 10, "podAffinityTerm": {"topologyKey": "topology.kubernetes.io/zone", **OWN_KEY}},
    ),
    Seen(
        "resources.STAGE.topology_spread[].topology_key",
        "spec.topologySpreadConstraints[0]",
        {"topologyKey": "rack", **OWN_KEY},
    ),
    Seen("resources.STAGE.topology_spread[].max_skew", "spec.topologySpreadConstraints[0].maxSkew", 2),
    Seen(
        "resources.STAGE.topology_spread[].when_unsatisfiable",
        "spec.topologySpreadConstraints[0].whenUnsatisfiable",
        "ScheduleAnyway",
    ),
    Seen("train_job.backend"),
    Seen("train_job.min_workers", "", 2, "spec.elasticPolicy.minReplicas", "spec.trainer.numNodes"),
    Seen("train_job.max_workers", "", 2, "spec.elasticPolicy.maxReplicas", "spec.trainer.numNodes"),
    Seen("train_job.processes_per_worker", f"{CONTAINER}.args[0]", "--nproc-per-node=4"),
    Seen(
        "train_job.max_restarts",
        "",
        5,
        "spec.elasticPolicy.maxRestarts",
        "spec.trainer.env[name=PET_MAX_RESTARTS].value",
    ),
    Seen(
        "train_job.start_timeout_seconds",
        "",
        "60",
        "metadata.annotations.trm/start-timeout",
        "metadata.annotations.trm/start-timeout",
    ),
    Seen("train_job.shared_memory", "spec.volumes[name=shared-memory].emptyDir.sizeLimit", "2Gi"),
    Seen("train_job.ttl_seconds", "", 99, "spec.runPolicy.ttlSecondsAfterFinished"),
    Seen("train_job.deadline_seconds", "", 3600, "spec.runPolicy.activeDeadlineSeconds", "spec.activeDeadlineSeconds"),
    Seen(
        "train_job.keep_on_stop",
        "",
        "true",
        "metadata.annotations.trm/keep-on-stop",
        "metadata.annotations.trm/keep-on-stop",
    ),
    Seen("train_job.gang.scheduler", "", {"volcano": {}}, "", f"{RUNTIME}: spec.podGroupPolicy"),
    Seen(
        "train_job.gang.queue",
        "",
        "volcano-queue",
        "spec.runPolicy.schedulingPolicy.queue",
        f"{RUNTIME}: spec.template.metadata.annotations.scheduling.volcano.sh/queue-name",
    ),
    Seen("train_job.gang.min_available", "", 2, "spec.runPolicy.schedulingPolicy.minAvailable"),
    Seen("train_job.gang.timeout_seconds", "", 77, "spec.runPolicy.schedulingPolicy.scheduleTimeoutSeconds"),
    Seen("train_job.runtime", "", "trm-test", "", "spec.runtimeRef.name"),
    Seen("metrics_port", f"{CONTAINER}.env[name=TRM_METRICS_PORT].value", "9400"),
    Seen("notify.secret"),
    Seen("notify.when"),
    Seen("max_gpu_hours"),
)
