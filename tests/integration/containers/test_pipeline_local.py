"""The pipeline in Docker on this machine, as in the README: containers, S3 server, collect, DVC."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.clones import Clone, make_clone
from tests.containers import Image
from tests.params import edit_params
from trm.stages.records import REQUIRED_STAGES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Local:
    """A clone with its own S3 server, in which the pipeline runs."""

    def __init__(self, clone: Clone, image: Image) -> None:
        self.clone = clone
        clone.environment["DOCKER_HOST"] = image.engine.host
        clone.run("make dev-up")
        self.secret = re.findall(r"AWS_SECRET_ACCESS_KEY=(\S+)", (clone.folder / ".dev/env").read_text())[0]
        self.tagged = "trm-of-a-test"
        image.engine.run("tag", image.name, f"{self.tagged}:latest")
        self.pipeline = f"source .dev/env && python -m pipeline local --image {image.name}"

    def objects(self) -> dict[str, tuple[int, str]]:
        """Return name -> (size, modification time) of all objects in the bucket."""
        code = (
            "import boto3, json; listed = boto3.client('s3').list_objects_v2(Bucket='trm').get('Contents', []);"
            "print(json.dumps({o['Key']: [o['Size'], str(o['LastModified'])] for o in listed}))"
        )
        return json.loads(self.clone.run(f'source .dev/env && python -c "{code}"'))


@pytest.fixture(scope="module")
def here(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    clone = make_clone(tmp_path_factory.mktemp("local"))
    try:
        yield Local(clone, image)
    finally:
        clone.run("make dev-down")


def test_local_run_and_collect_leave_nothing_to_do(here: Local) -> None:
    clone = here.clone
    first = clone.start(f"make pipeline-local IMAGE={here.tagged}")
    assert first.returncode == 0, first.stdout + first.stderr
    uris = dict(line.split(": ") for line in first.stdout.splitlines()[-len(REQUIRED_STAGES) :])
    assert list(uris) == [stage.name for stage in REQUIRED_STAGES]
    assert "'uri': 's3://trm/artifacts/train/" in first.stdout  # pointers are passed to the next stage
    assert "'metrics.exact_accuracy': " in first.stdout  # scalar facts are metadata
    assert "Run succeeded" in first.stdout
    written = here.objects()
    for uri in uris.values():
        assert f"{uri.removeprefix('s3://trm/')}/manifest.json" in written

    again = clone.start(here.pipeline)
    assert again.returncode == 0
    assert again.stdout.count("exists: nothing to do") == len(REQUIRED_STAGES)
    assert here.objects() == written

    clone.run("source .dev/env && python -m pipeline collect")
    assert clone.ran("dvc repro") == []
    assert "up to date" in clone.run("dvc status")
    assert json.loads((clone.folder / "outputs/evaluation/metrics.json").read_text())["puzzles"] == 10
    outputs = [first.stdout, first.stderr, again.stdout, again.stderr]
    files = [path for path in (clone.folder / "outputs").rglob("*") if path.is_file()]
    assert not [text for text in outputs if here.secret in text]
    assert not [path for path in files if here.secret.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("setting", "value", "message", "stage"),
    [
        ("lr", 1.0e30, "trm: step 2, process 0 of 1: the loss is", "train"),
        # A container that exits at once, which Kubeflow's local runner reports as success.
        ("device", "cuda", "trm: device cuda is not available", "evaluate"),
    ],
)
def test_failed_container_fails_the_run(here: Local, setting: str, value: object, message: str, stage: str) -> None:
    params = here.clone.folder / "params.yaml"
    text = edit_params(params, {f"{stage}.{setting}": value})
    failed = here.clone.start(here.pipeline)
    params.write_text(text)
    assert failed.returncode == 1
    assert message in failed.stdout
    assert failed.stderr.splitlines()[-1].startswith(f"pipeline: stage {stage} has no artifact; see its log above")


def test_sigterm_stops_the_container(here: Local, image: Image) -> None:
    params = here.clone.folder / "params.yaml"
    text = edit_params(params, {"train.epochs": 100000})
    command = ["bash", "-c", f"source .dev/env && exec python -m pipeline local --image {image.name}"]
    process = subprocess.Popen(
        command, cwd=here.clone.folder, env=here.clone.environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "train: " in line:
            break
    assert image.engine.run("ps", "-q", "--filter", "label=trm.run").strip()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=100)
    params.write_text(text)
    assert process.returncode == 143
    assert not image.engine.run("ps", "-q", "--filter", "label=trm.run").strip()


def test_image_with_other_code_is_rejected(here: Local) -> None:
    module = here.clone.folder / "trm/training/losses.py"
    text = module.read_text()
    module.write_text(f"{text}\n# newer than the image\n")
    failed = here.clone.start(here.pipeline)
    module.write_text(text)
    assert failed.returncode == 1
    assert "params, code or libraries differ from those of" in " ".join(failed.stdout.split())
    assert "build and push the image again" in failed.stdout
    assert "pipeline: stage train has no artifact" in failed.stderr


def test_missing_docker_image_or_s3_server(here: Local) -> None:
    for command, message in (
        (f"{here.pipeline}-nosuch", "pipeline: Docker has no image"),
        (
            f"DOCKER_HOST=unix://{os.sep}nosuch {here.pipeline.partition('&& ')[2]}",
            "pipeline: cannot connect to Docker",
        ),
        ("mv .dev away; make pipeline-local; code=$?; mv away .dev; exit $code", "no S3 server here; run make dev-up"),
    ):
        failed = here.clone.start(command)
        assert failed.returncode == 2
        assert message in failed.stderr.splitlines()[0]
