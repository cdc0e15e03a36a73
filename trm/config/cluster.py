"""Section `cluster` of `params.yaml`: where `python -m pipeline` runs the experiment. It does not affect results."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from trm.config.base import Address, Natural, Positive, Quantity, Section, int_to_float, integral_to_int
from trm.config.pods import ObjectName, PodSettings, Resources


class GangScheduling(Section):
    """Starts the workers of a job together or not at all, by Volcano or the coscheduling plug-in.

    The controller of the back end must be installed with this scheduler. Kueue needs no such section: it admits a job
    as a whole (`cluster.resources.train.queue`).
    """

    scheduler: Literal["volcano", "coscheduling"] = "volcano"
    queue: str | None = None
    """Queue of Volcano."""
    min_available: Positive | None = None
    """Workers that must fit. Null: all. A TrainJob always waits for all."""
    timeout_seconds: Positive | None = None
    """Time that coscheduling waits for the whole group. A PyTorchJob hands it to both schedulers."""


class TrainJobParams(Section):
    """Distributed training by a job with several pods. Each of these workers gets `cluster.resources.train`."""

    backend: Literal["pytorchjob", "trainjob"] = "pytorchjob"
    """`pytorchjob`: PyTorchJob of the training operator, with a varying number of workers. `trainjob`: TrainJob of
    Kubeflow Trainer, with a fixed number."""
    min_workers: Positive = 1
    """The job starts with this number of workers, and continues with it when others are preempted. A TrainJob requires
    min_workers = max_workers."""
    max_workers: Positive = 2
    processes_per_worker: Positive | None = None
    """Null: one per GPU of a worker; one on a worker without GPUs."""
    max_restarts: Natural = 10
    """Restarts of a worker's processes after a failure, and out-of-memory kills of workers within an hour."""
    start_timeout_seconds: Positive = 600
    """Time that the container of a worker may fail to start because of its image, a secret or its settings. Such faults
    may pass: a registry is busy, a secret is created later. Then the job ends if fewer than `min_workers` run."""
    shared_memory: Quantity = "1Gi"
    """Size of /dev/shm, which the processes of a worker share. It counts towards the memory limit."""
    ttl_seconds: Natural | None = None
    """`ttlSecondsAfterFinished` of a PyTorchJob: time until a finished job is deleted. Null: one day. A TrainJob has no
    such time, and any number is refused."""
    deadline_seconds: Positive = 7 * 24 * 3600
    """`activeDeadlineSeconds`: maximum duration of the job. Its checkpoints stay in S3."""
    keep_on_stop: bool = False
    """True: the job continues when the pipeline run that started it is stopped."""
    gang: GangScheduling | None = None
    """Null: the scheduler places each worker alone."""
    runtime: ObjectName = "trm"
    """TrainingRuntime of a TrainJob. `python -m pipeline train-job --runtime` prints it."""

    @model_validator(mode="after")
    def _check_workers(self) -> Self:
        if self.min_workers > self.max_workers:
            raise ValueError(f"min_workers must be at most max_workers. Got {self.min_workers} and {self.max_workers}")
        gang = self.gang
        if gang and gang.min_available and gang.min_available > self.max_workers:
            raise ValueError(f"gang.min_available must be at most max_workers. Got {gang.min_available}")
        if gang and gang.queue and gang.scheduler != "volcano":
            raise ValueError("gang.queue requires scheduler volcano; for Kueue, set cluster.resources.train.queue")
        if self.backend == "trainjob":
            self._check_trainjob()
        return self

    def _check_trainjob(self) -> None:
        """Raise `ValueError` for a setting that a TrainJob does not have."""
        gang = self.gang
        if self.min_workers != self.max_workers:
            raise ValueError(
                "a TrainJob has a fixed number of workers: set min_workers = max_workers, or backend pytorchjob. "
                f"Got {self.min_workers} and {self.max_workers}"
            )
        if self.ttl_seconds is not None:
            raise ValueError(
                "a TrainJob has no ttl_seconds: set it to null; "
                "`kubectl delete trainjob -l app.kubernetes.io/managed-by=trm-launcher` deletes jobs"
            )
        if gang and gang.min_available not in (None, self.max_workers):
            raise ValueError("a TrainJob waits for all its workers: set gang.min_available to null")
        if gang and gang.timeout_seconds and gang.scheduler == "volcano":
            raise ValueError("a TrainJob hands no timeout to Volcano: set gang.timeout_seconds to null")


class NotifyParams(Section):
    """A message to a webhook, such as one of Slack or Mattermost, at the end of a run of the pipeline."""

    secret: ObjectName
    """Kubernetes secret whose key `url` is the address of the webhook, which is a credential. With a key `token`, the
    address is that of a repository's issues in GitHub's API, and the message becomes an issue."""
    when: Literal["failed", "finished"] = "failed"
    """`failed`: only runs without a result. `finished`: all runs."""


class ClusterParams(Section):
    """Where `python -m pipeline` runs the experiment.

    The section does not affect results: every key has a default, and none enters a content key.
    """

    kfp_host: Address | None = None
    """URL of Kubeflow Pipelines."""
    namespace: str | None = None
    """Namespace of the runs in multi-user Kubeflow. Null: single-user Kubeflow."""
    service_account: str | None = None
    """Service account of the stages' pods. Null: the default of Kubeflow Pipelines."""
    artifact_root: Annotated[str, Field(pattern=r"^s3://[^/\s${}]+(/[^/\s${}]+)*$")] = "s3://trm/artifacts"
    """Artifacts are stored at `<artifact_root>/<stage>/<content key>/`."""
    state_root: Annotated[str | None, Field(pattern=r"^(off|s3://[^/\s${}]+(/[^/\s${}]+)*)$")] = None
    """Training states are copied to `<state_root>/<content key>/`, from which the training resumes in another pod.
    Null: `<artifact_root>/states`. `off`: they stay in /cache, and are lost with the pod unless `cache_pvc` is set."""
    max_retries: Natural = 3
    """Retries of a stage whose pod was evicted or failed. Kubeflow cannot tell faults of a machine from mistakes of a
    user (exit code 2): it retries both. A training resumes from its state."""
    retry_backoff_seconds: Natural = 60
    """Pause before the first retry. It doubles with each retry."""
    s3_endpoint: Address | None = None
    """URL of the S3 server as pods reach it. Null: AWS."""
    s3_region: str | None = None
    s3_secret: str | None = None
    """Kubernetes secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. Null: the service account's IAM role."""
    image: str = "trm:latest"
    """Image built by `make image`, as `name@sha256:...`. A tag is valid only for local runs."""
    image_pull_secret: str | None = None
    cache_pvc: str | None = None
    """PersistentVolumeClaim mounted at /cache. Null: an `emptyDir` volume, deleted with the pod."""
    pods: PodSettings = PodSettings()
    """Settings of all pods."""
    resources: dict[str, Resources] = Field(default_factory=dict)
    """Stage name -> resources of its pod, on top of `pods`."""
    train_job: TrainJobParams | None = None
    """Null: the pod of stage `train` trains in its own container."""
    metrics_port: Annotated[int, Field(ge=1024, le=65535), BeforeValidator(integral_to_int)] | None = None
    """Port on which the pods of stage `train` and the workers serve metrics for Prometheus. Null: no metrics."""
    notify: NotifyParams | None = None
    """Null: no messages."""
    max_gpu_hours: Annotated[float | None, Field(ge=0, allow_inf_nan=False), BeforeValidator(int_to_float)] = None
    """A retraining whose estimate exceeds this limit, or is unknown, requires approval. Null: no limit."""

    def pod(self, stage: str, resources: Resources | None = None) -> Resources:
        """Return the settings of a stage's pod: `resources`, by default those of the stage, on top of `pods`."""
        return (resources or self.resources.get(stage, Resources())).over(self.pods)
