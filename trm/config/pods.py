"""Settings of the pods in section `cluster`: environment, volumes, placement and resources."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, model_validator

from trm.config.base import Natural, Positive, Quantity, Section

RESERVED_FOLDERS = ("/cache", "/dev/shm")
"""Mount paths of the project's own volumes."""
RESERVED_VARIABLES = ("PET_", "KUBEFLOW_TRAINER_")
"""Starts of the names of variables that the training back end sets."""
OWN_VARIABLES = {
    "TRM_STATE_DIR": "state_root",
    "TRM_METRICS_PORT": "metrics_port",
    "TRM_NOTIFY_URL": "notify.secret",
    "TRM_NOTIFY_TOKEN": "notify.secret",
    "TRM_NOTIFY_WHEN": "notify.when",
    "TRM_NOTIFY_HOST": "kfp_host",
    "AWS_ENDPOINT_URL_S3": "s3_endpoint",
    "AWS_DEFAULT_REGION": "s3_region",
    "AWS_ACCESS_KEY_ID": "s3_secret",
    "AWS_SECRET_ACCESS_KEY": "s3_secret",
}
"""Variables that other keys of section `cluster` set."""
OWN_LABELS = ("app.kubernetes.io/", "trm/", "pipelines.kubeflow.org/", "kueue.x-k8s.io/queue-name")
"""Starts of the labels that select the project's pods, or that other settings write."""
WORKERS_ONLY = (
    "extended_resources",
    "ephemeral_storage",
    "priority_class",
    "runtime_class",
    "termination_grace_period_seconds",
    "fs_group",
    "fs_group_change_policy",
    "pod_affinity",
    "topology_spread",
)
"""Settings for which the SDK of Kubeflow Pipelines has no function."""
MAX_WEIGHT = 100
"""Maximum weight of a preference in Kubernetes."""
ValueT = TypeVar("ValueT")


def _check_environment(values: dict[str, ValueT]) -> dict[str, ValueT]:
    for name in values:
        if name.startswith(RESERVED_VARIABLES):
            raise ValueError(f"{name} is reserved: the training back end sets it; remove it")
        if name in OWN_VARIABLES:
            raise ValueError(f"{name} is set by cluster.{OWN_VARIABLES[name]}; remove it")
    return values


def _check_labels(values: dict[str, str]) -> dict[str, str]:
    for name in values:
        if name.startswith(OWN_LABELS):
            remedy = "set cluster.resources.STAGE.queue" if name.startswith("kueue") else "choose another name"
            raise ValueError(f"{name} is a label of the project; {remedy}")
    return values


VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
LabelName = Annotated[
    str, Field(pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")
]
LabelValue = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")]
ObjectName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
"""Name of a Kubernetes object."""
ResourceName = Annotated[
    str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
]
"""Name of an extended resource: `rdma/hca_shared_devices_a`."""


class Toleration(Section):
    """A Kubernetes toleration of a stage's pod."""

    key: str
    value: str | None = None
    """Null: tolerate any value of `key`."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Null: tolerate every effect."""


class Volume(Section):
    """A volume and where it is mounted. Exactly one of its four sources is set."""

    mount_path: Annotated[str, Field(pattern=r"^/[^:]*[^:/]$")]
    secret: ObjectName | None = None
    """Name of a secret, whose keys become files: a private CA, credentials of a proxy."""
    config_map: ObjectName | None = None
    """Name of a ConfigMap, whose keys become files."""
    pvc: ObjectName | None = None
    """Name of a PersistentVolumeClaim."""
    empty_dir: Quantity | None = None
    """Size limit of an empty folder, which is deleted with the pod."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if sum(source is not None for source in (self.secret, self.config_map, self.pvc, self.empty_dir)) != 1:
            raise ValueError(f"set exactly one of secret, config_map, pvc and empty_dir for {self.mount_path}")
        for reserved in RESERVED_FOLDERS:
            if f"{self.mount_path}/".startswith(f"{reserved}/"):
                raise ValueError(f"mount_path {self.mount_path} is in {reserved}, a volume of the project; change it")
        return self


class NodeAffinity(Section):
    """A label that nodes must have or, with a weight, should have."""

    key: LabelName
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"] = "In"
    values: Annotated[tuple[str, ...], Field(strict=False)] = ()
    weight: Annotated[Positive, Field(le=MAX_WEIGHT)] | None = None
    """Null: a requirement. 1 to 100: a preference of this weight."""

    @model_validator(mode="after")
    def _check_values(self) -> Self:
        if (self.operator in ("Exists", "DoesNotExist")) == bool(self.values):
            needed = "takes no values" if self.values else "requires values"
            raise ValueError(f"operator {self.operator} {needed}")
        return self


class PodAffinity(Section):
    """Keeps the workers of a job together in a domain, such as a rack, or apart from each other."""

    topology_key: LabelName
    """Label of the nodes whose value names the domain: `topology.kubernetes.io/zone`, `kubernetes.io/hostname`."""
    apart: bool = False
    """True: no two workers in one domain."""
    weight: Annotated[Positive, Field(le=MAX_WEIGHT)] | None = None
    """Null: a requirement. 1 to 100: a preference of this weight."""


class TopologySpread(Section):
    """Distributes the workers of a job evenly over domains."""

    topology_key: LabelName
    """Label of the nodes whose value names the domain."""
    max_skew: Positive = 1
    """Maximum difference between the numbers of workers in two domains."""
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = "DoNotSchedule"


class SecretKey(Section):
    """A value that is in a secret and in no manifest."""

    secret: ObjectName
    """Name of the secret, in the namespace of the pods."""
    key: Annotated[str, Field(pattern=r"^[-._A-Za-z0-9]{1,253}$")]


class PodSettings(Section):
    """Settings of every pod: the stages in Kubeflow Pipelines and the workers of a training job."""

    env: Annotated[dict[VariableName, str], AfterValidator(_check_environment)] = Field(default_factory=dict)
    """Environment variables: `HTTPS_PROXY`, `SSL_CERT_FILE`, `NCCL_IB_HCA`. The manifests show them: credentials belong
    in `secret_env` or `volumes`."""
    secret_env: Annotated[dict[VariableName, SecretKey], AfterValidator(_check_environment)] = Field(
        default_factory=dict
    )
    """Environment variables from secrets: `WANDB_API_KEY: {secret: wandb, key: api-key}`."""
    labels: Annotated[dict[LabelName, LabelValue], AfterValidator(_check_labels)] = Field(default_factory=dict)
    annotations: dict[LabelName, str] = Field(default_factory=dict)
    volumes: Annotated[tuple[Volume, ...], Field(strict=False)] = ()
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: Annotated[tuple[Toleration, ...], Field(strict=False)] = ()
    node_affinity: Annotated[tuple[NodeAffinity, ...], Field(strict=False)] = ()
    """Requirements, which all hold, and preferences."""


class Resources(PodSettings):
    """Resources and placement of a stage's pod. Null values leave the choice to the cluster."""

    cpu: Annotated[str | None, Field(pattern=r"^\d+(\.\d+)?m?$")] = None
    """Cores, as a Kubernetes quantity: `8` or `500m`. Request and limit."""
    memory: Quantity | None = None
    """Bytes, as a Kubernetes quantity: `32Gi`. Request and limit."""
    gpus: Natural = 0
    gpu_resource: str = "nvidia.com/gpu"
    """Extended resource that counts the GPUs."""
    queue: LabelValue | None = None
    """LocalQueue of Kueue: the label `kueue.x-k8s.io/queue-name` of the training job, or of the stage's pod, for which
    Kueue's integration of pods must be enabled."""
    extended_resources: dict[ResourceName, Positive] = Field(default_factory=dict)
    """Further extended resources: `{rdma/hca_shared_devices_a: 1}`. Workers of a training job only."""
    ephemeral_storage: Quantity | None = None
    """Bytes on the node's disk. Request and limit. Workers of a training job only."""
    priority_class: ObjectName | None = None
    """Workers of a training job only."""
    runtime_class: ObjectName | None = None
    """Workers of a training job only."""
    termination_grace_period_seconds: Positive | None = None
    """Time to save the state after SIGTERM. Null: the 30 seconds of Kubernetes. Workers of a training job only."""
    fs_group: Natural | None = 10001
    """Group that owns the files of the volumes, so that the image's user can write. Null: the cluster chooses
    (OpenShift). Workers of a training job only."""
    fs_group_change_policy: Literal["Always", "OnRootMismatch"] | None = None
    """`OnRootMismatch` skips the change of owners on a large volume. Workers of a training job only."""
    pod_affinity: Annotated[tuple[PodAffinity, ...], Field(strict=False)] = ()
    """Workers of a training job only."""
    topology_spread: Annotated[tuple[TopologySpread, ...], Field(strict=False)] = ()
    """Workers of a training job only."""

    def workers_only(self) -> list[str]:
        """Return the names of the settings that differ from their default and that only workers of a job can have."""
        fields = type(self).model_fields
        defaults = {name: fields[name].get_default(call_default_factory=True) for name in WORKERS_ONLY}
        return [name for name, default in defaults.items() if getattr(self, name) != default]

    def over(self, common: PodSettings) -> Self:
        """Return these settings on top of those of every pod: lists are joined, and own entries of mappings win."""

        def joined(name: str) -> Any:  # noqa: ANN401 - the type of the setting
            theirs, own = getattr(common, name), getattr(self, name)
            return {**theirs, **own} if isinstance(own, Mapping) else (*theirs, *own)

        return self.model_copy(update={name: joined(name) for name in PodSettings.model_fields})
