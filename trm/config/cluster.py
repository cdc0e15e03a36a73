"""Section `cluster`: where `python -m pipeline` runs an experiment. No result depends on it."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from trm.config.base import Address, Natural, Positive, Quantity, Section, real


class Toleration(Section):
    """A taint of nodes that a stage's pod may run on."""

    key: str
    value: str | None = None
    """Null: any value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Null: every effect."""


class Resources(Section):
    """What a stage's pod asks for; null: what the cluster gives by itself."""

    cpu: Annotated[str | None, Field(pattern=r"^\d+(\.\d+)?m?$")] = None
    memory: Quantity | None = None
    gpus: Natural = 0
    gpu_resource: str = "nvidia.com/gpu"
    """The name by which Kubernetes counts its GPUs."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: Annotated[tuple[Toleration, ...], Field(strict=False)] = ()


class JobParams(Section):
    """A training by several workers: a PyTorchJob, each of whose pods asks for what `cluster.stages.train` says."""

    min_workers: Positive = 1
    """The job trains as soon as so many are there; it goes on with so many when others are taken away."""
    max_workers: Positive = 2
    processes_per_worker: Positive | None = None
    """Null: one for each GPU of a worker; one where it has none."""
    max_restarts: Natural = 10
    """How often a worker starts its processes again after one of them failed, and how often within an hour a worker may
    be killed for want of memory."""
    shared_memory: Quantity = "1Gi"
    """Size of /dev/shm, through which the processes of a worker talk; it counts as their memory."""
    ttl_seconds: Natural = 24 * 3600
    """So long an ended job is kept to be looked at."""
    deadline_seconds: Positive = 7 * 24 * 3600
    """So long the job may run; what it has trained by then stays in S3."""
    keep: bool = False
    """True: the job goes on when the run that started it is stopped."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.min_workers > self.max_workers:
            raise ValueError(f"min_workers must be at most max_workers. Got {self.min_workers} and {self.max_workers}")
        return self


class ClusterParams(Section):
    """Where `python -m pipeline` runs the experiment. No result depends on it, so it has defaults and enters no key."""

    host: Address | None = None
    """Address of Kubeflow Pipelines."""
    namespace: str | None = None
    """Of the runs, where Kubeflow has users; null: where it has none."""
    service_account: str | None = None
    """Of the stages' pods; null: Kubeflow's own."""
    root: Annotated[str, Field(pattern=r"^s3://[^/\s]+(/[^/\s]+)*$")] = "s3://trm/artifacts"
    """Where the artifacts lie: `<root>/<stage>/<content key>/`."""
    s3_endpoint: Address | None = None
    """Address of S3 as pods reach it; null: AWS."""
    s3_region: str | None = None
    s3_secret: str | None = None
    """Kubernetes secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; null: the service account's IAM role."""
    image: str = "trm:latest"
    """What `make image` built, as `name@sha256:...`; a tag is only good enough on this machine."""
    image_pull_secret: str | None = None
    cache_claim: str | None = None
    """PersistentVolumeClaim for the pods' folder /cache; null: a folder that ends with the pod."""
    stages: dict[str, Resources] = Field(default_factory=dict)
    """Stage name -> what its pod asks for."""
    job: JobParams | None = None
    """Null: the pod of stage `train` trains by itself."""
    max_gpu_hours: Annotated[float | None, Field(ge=0, allow_inf_nan=False), BeforeValidator(real)] = None
    """A retraining that is expected to take more waits for somebody's approval, and so does one of which nobody knows;
    null: none waits."""
