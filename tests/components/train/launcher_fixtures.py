"""Launchers of stage `train` on a test cluster, and replacement commands for workers that do not train."""

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from components.train.backend import job_name
from components.train.backends import job_template
from components.train.train_job import runtime
from pipeline.local.s3_server import SeaweedFS
from tests.apiserver import ApiServer
from tests.components.train.fake_cluster import DONE, FakeCluster
from tests.components.train.fake_trainer import FakeTrainer, install_runtime
from tests.components.train.fake_training_operator import FakeTrainingOperator
from tests.conftest import ROOT
from tests.params import params_text
from tests.preload import python
from trm.config.cluster import ClusterParams, TrainJobParams
from trm.config.pods import Resources
from trm.stages.content_keys import content_keys
from trm.stages.params import load_params
from trm.stages.records import STAGES, producer
from trm.stages.runner import run_stage
from trm.storage import s3

SETTINGS: dict[str, Any] = {
    "data.source.train_puzzles": 40,
    "data.source.test_puzzles": 6,
    "augment.num_aug": 3,
    "augment.validation_groups": 8,
    "model.hidden_size": 16,
    "model.num_heads": 2,
    "train.epochs": 4,
    "train.global_batch_size": 4,
    "train.eval_interval": 2,
    "train.checkpoint_interval": 10,
    "train.device": "cpu",
    "evaluate.device": "cpu",
    "report.device": "cpu",
}
NO_GPU = Resources()
JOB = TrainJobParams(min_workers=2, max_workers=2, max_restarts=3)
BACKENDS = {"pytorchjob": FakeTrainingOperator, "trainjob": FakeTrainer}
"""Back end -> its controller."""
one_backend = pytest.mark.parametrize("operator", ["pytorchjob"], indirect=True)
"""For what the launcher does in the same way with each back end."""
LINES = """
import os, sys, time
for number in range({lines}):
    print("line", number, flush=True)
    time.sleep({pause})
"""
PUBLISH = """
from trm.storage import s3
s3.put_json(sys.argv[sys.argv.index("--model") + 1] + "/manifest.json", {"files": {}, "facts": {}, "key": "k"})
"""


@pytest.fixture(scope="session")
def base_params() -> str:
    """Params of a training of two seconds: 6x6 Sudoku."""
    return params_text(SETTINGS).partition("cluster:")[0]


@pytest.fixture(scope="session")
def folders(base_params: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Outputs of the stages before the training: output name -> folder."""
    home = tmp_path_factory.mktemp("stages")
    (home / "params.yaml").write_text(base_params)
    params, made = load_params(home / "params.yaml"), {}
    for stage in STAGES[:2]:
        sections = {name: getattr(params, name) for name in stage.sections}
        made[stage.output] = home / stage.output
        run_stage(stage, sections, {name: str(made[name]) for name in stage.inputs}, str(made[stage.output]))
    return made


@dataclass
class Stage:
    """Stage `train` of one experiment on the test cluster, for which launchers can be started."""

    folder: Path
    server: ApiServer
    seaweed: SeaweedFS
    root: str
    params_text: str
    seed: int = 0
    job: TrainJobParams = JOB
    epochs: int = 4
    resources: Resources = NO_GPU
    secret: str = "trm-s3"
    metrics_port: int | None = None
    more: dict[str, str] = field(default_factory=dict)
    """Additional environment variables of the launcher."""
    retry_timeout: float = 30.0
    started: list["Launcher"] = field(default_factory=list)

    def __post_init__(self) -> None:
        text = params_text({"train.epochs": self.epochs, "train.seed": self.seed}, self.params_text)
        file = self.folder / f"params-{self.seed}.yaml"
        file.write_text(text)
        self.params = load_params(file)
        self.keys = content_keys(self.params)
        self.uri = f"{self.root}/train/{self.keys['train']}"
        self.name = job_name(self.keys["train"])
        self.output = self.folder / f"output-{self.seed}.json"
        self.cluster = ClusterParams(
            artifact_root=self.root,
            s3_endpoint=self.seaweed.endpoint,
            s3_region="us-east-1",
            s3_secret=self.secret,
            train_job=self.job,
            resources={"train": self.resources},
            metrics_port=self.metrics_port,
        )

    def arguments(self) -> list[str]:
        """Return the arguments of the container as Kubeflow resolves them."""
        sections = {name: getattr(self.params, name).model_dump(mode="json") for name in ("model", "train")}
        command = ["train", "--params", json.dumps(sections)]
        pointer = self.folder / "dataset.pointer"
        pointer.write_text(json.dumps({"uri": f"{self.root}/augment/{self.keys['augment']}"}))
        command += ["--dataset", str(pointer), "--model", self.uri]
        artifacts = {name: {"artifacts": [{"name": name}]} for name in ("executor-logs", "model")}
        outputs = {"artifacts": artifacts, "outputFile": str(self.output)}
        job = job_template(self.cluster)
        executor_input = {"inputs": {"artifacts": {"dataset": {}}}, "outputs": outputs}
        return [json.dumps(executor_input), str(self.folder / "model.pointer"), json.dumps(job), *command]

    def start(self, user: str = "admin") -> "Launcher":
        """Start a launcher as its container does."""
        code = f"import components.train.kubernetes_client as c; c.RETRY_TIMEOUT = {self.retry_timeout}; "
        code += "import components.train.worker_logs as w; w.UPLOAD_INTERVAL = 1.0; "
        code += "from components.train.launcher import main; main()"
        environment = {**os.environ, **self.seaweed.environment(), "KUBECONFIG": str(self.server.kubeconfig(user))}
        for name in ("POD_NAME", "POD_UID"):
            environment.pop(name, None)
        launcher = Launcher([python(), "-c", code, *self.arguments()], {**environment, **self.more}, self.folder)
        self.started.append(launcher)
        return launcher

    def with_job(self, **changes: Any) -> "Stage":
        """Return a copy whose section `cluster.train_job` is changed."""
        return self.replace(job=self.job.model_copy(update=changes))

    def replace(self, **changes: Any) -> "Stage":
        """Return a copy with changed settings."""
        return Stage(**{**{name: getattr(self, name) for name in self.__dataclass_fields__}, **changes})


class Launcher:
    """Process of a launcher, and its output."""

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path) -> None:
        self.files = [folder / f"{time.monotonic_ns()}.{name}" for name in ("out", "err")]
        with self.files[0].open("wb") as out, self.files[1].open("wb") as err:
            self.process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=out, stderr=err)

    @property
    def out(self) -> str:
        return self.files[0].read_text()

    @property
    def err(self) -> str:
        return self.files[1].read_text()

    def lines(self) -> list[int]:
        """Return the line numbers that the replacement command printed."""
        return [int(line.split()[1]) for line in self.out.splitlines() if line.startswith("line ")]

    def end(self, seconds: float = 240) -> int:
        """Wait for the process and return its exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s:\n{self.out}\n{self.err}") from None


@pytest.fixture(params=BACKENDS)
def operator(request: pytest.FixtureRequest, apiserver: ApiServer, tmp_path: Path) -> Iterator[FakeCluster]:
    """The controller of a back end on the test cluster, with what that back end requires."""
    operator = BACKENDS[request.param](apiserver, tmp_path)
    job = JOB.model_copy(update={"backend": request.param})
    if request.param == "trainjob":
        install_runtime(operator, runtime(ClusterParams(train_job=job), job))
    yield operator
    operator.close()


@pytest.fixture
def stage(
    apiserver: ApiServer,
    operator: FakeCluster,
    seaweed: SeaweedFS,
    root: str,
    base_params: str,
    folders: dict[str, Path],
    tmp_path: Path,
) -> Iterator[Stage]:
    """The stage, with its dataset in S3 and its S3 credentials in a secret of the cluster."""
    job = JOB.model_copy(update={"backend": operator.backend.name})
    made = Stage(tmp_path, apiserver, seaweed, root, base_params, job=job)
    for name, folder in folders.items():
        where = producer(name).name
        s3.publish(folder, f"{root}/{where}/{made.keys[where]}")
    keys = {name: value for name, value in seaweed.environment().items() if "KEY" in name}
    data = {name: base64.b64encode(value.encode()).decode() for name, value in keys.items()}
    operator.core.create_namespaced_secret("default", {"metadata": {"name": "trm-s3"}, "data": data})
    yield made
    for launcher in made.started:
        launcher.process.kill()
        launcher.process.wait()
    operator.core.delete_namespaced_secret("trm-s3", "default")


def replacement_command(
    lines: int, pause: float, then: str = "", worker: str = "worker-0"
) -> Callable[[list[str], str], list[str]]:
    """Return a function that replaces a pod's command.

    `worker` prints numbered lines, `pause` seconds apart, and runs the code `then`. The other workers wait until it is
    done.
    """
    done = f"open(os.environ['{DONE}'], 'w').close()"
    wait = f"import os, time\nwhile not os.path.exists(os.environ['{DONE}']): time.sleep(0.1)"

    def command(arguments: list[str], name: str) -> list[str]:
        code = f"{LINES.format(lines=lines, pause=pause)}{then}\n{done}" if name == worker else wait
        return [sys.executable, "-c", code, *arguments]

    return command
