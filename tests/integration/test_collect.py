"""Collection of a run: artifacts in an S3 server, a fake Kubeflow Pipelines server, and DVC."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.parameters import parameter_text
from pipeline.local.s3_server import SeaweedFS
from tests.clones import Clone, make_clone
from tests.params import edit_params
from tests.pipeline.kfp.fake_server import FakeKfpServer, kfp_server
from trm.stages.records import STAGES, producer
from trm.storage.artifacts import read_manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT_URI = "s3://trm/artifacts"
EXPORT = {"export.weights": ["ema"], "export.max_puzzles": 2, "export.max_steps": 1}
"""With the optional stage."""


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    server = SeaweedFS(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory, storage: SeaweedFS) -> dict[str, str]:
    """An experiment that was run in another clone with outputs in S3: stage name -> URI."""
    elsewhere = make_clone(tmp_path_factory.mktemp("elsewhere"))
    edit_params(elsewhere.folder / "params.yaml", EXPORT)
    elsewhere.environment |= storage.environment() | {"TRM_CACHE_DIR": str(elsewhere.folder / "cache")}
    uris: dict[str, str] = {}
    for stage in STAGES:
        inputs = "".join(f" --{name} {uris[producer(name).name]}" for name in stage.inputs)
        done = elsewhere.start(f"trm {stage.name} --params params.yaml{inputs} --{stage.output} {ROOT_URI}")
        assert done.returncode == 0, done.stderr
        uris[stage.name] = re.findall(r"^published (s3://\S+)$", done.stderr, re.MULTILINE)[0]
    return uris


@pytest.fixture
def server() -> Iterator[FakeKfpServer]:
    with kfp_server() as server:
        yield server


@pytest.fixture
def clone(tmp_path: Path, storage: SeaweedFS, server: FakeKfpServer) -> Clone:
    """A new workspace with the same experiment."""
    clone = make_clone(tmp_path)
    clone.environment |= storage.environment() | {"TRM_CACHE_DIR": str(tmp_path / "cache")}
    params = clone.folder / "params.yaml"
    edit_params(params, {**EXPORT, "cluster.kfp_host": server.host})
    return clone


@pytest.fixture
def run(server: FakeKfpServer, computed: dict[str, str]) -> str:
    """Id of the run on the fake server."""
    parameters = {f"{stage}_key": uri.rpartition("/")[2] for stage, uri in computed.items()}
    config = {"parameters": {**parameters, "artifact_root": ROOT_URI}}
    described = "commit abc, image registry.example.org/trm@sha256:1"
    return server.add_run("trm-x", "SUCCEEDED", runtime_config=_config(config), description=described).run_id


def _config(config: dict) -> object:
    import kfp_server_api

    return kfp_server_api.V2beta1RuntimeConfig(**config)


def test_collect_leaves_nothing_to_do(clone: Clone, run: str, computed: dict[str, str]) -> None:
    printed = clone.run(f"python -m pipeline collect {run}")
    assert printed.splitlines() == [f"{stage}: {uri}" for stage, uri in computed.items()]
    assert clone.ran("dvc repro") == []
    assert "up to date" in clone.run("dvc status")
    for stage in STAGES:
        assert read_manifest(clone.folder / "outputs" / stage.output)["key"] == computed[stage.name].rpartition("/")[2]
        timing = json.loads((clone.folder / f"outputs/{stage.output}.timing.json").read_text())
        assert timing["stage"] == stage.name
    new = ["dvc.lock", "metrics.json", "runs.tsv"]
    assert clone.run("git status --porcelain").split() == [
        "M",
        "params.yaml",
        *(w for name in new for w in ("??", name)),
    ]
    values = json.loads((clone.folder / "metrics.json").read_text())
    assert values["metrics"] == json.loads((clone.folder / "outputs/evaluation/metrics.json").read_text())
    assert values["keys"] == {stage: uri.rpartition("/")[2] for stage, uri in computed.items()}
    lines = [line.split("\t") for line in (clone.folder / "runs.tsv").read_text().splitlines()]
    assert [line[0] for line in lines[1:]] == [stage.name for stage in STAGES]
    commit = clone.run("git rev-parse HEAD").strip()
    provenance = {"commit": f"{commit}-dirty", "run": run, "image": "registry.example.org/trm@sha256:1"}
    assert provenance.items() <= dict(zip(lines[0], lines[-1], strict=True)).items()
    # Collecting again downloads nothing and changes no file.
    checkpoint = clone.folder / "outputs/model/checkpoint.safetensors"
    before = [checkpoint.stat().st_mtime_ns, *((clone.folder / name).read_bytes() for name in new)]
    clone.run(f"python -m pipeline collect {run}")
    assert [checkpoint.stat().st_mtime_ns, *((clone.folder / name).read_bytes() for name in new)] == before


def test_run_without_the_optional_stage(clone: Clone, server: FakeKfpServer, computed: dict[str, str]) -> None:
    keys = {f"{stage}_key": uri.rpartition("/")[2] for stage, uri in computed.items() if stage != "export"}
    parameters = {**keys, "artifact_root": ROOT_URI}
    run = server.add_run("trm-x", "SUCCEEDED", runtime_config=_config({"parameters": parameters}), description="")
    done = clone.start(f"python -m pipeline collect {run.run_id}")
    assert done.returncode == 2
    assert "has no stage export; correct export.weights in params.yaml" in done.stderr
    edit_params(clone.folder / "params.yaml", {"export.weights": []})
    clone.run(f"python -m pipeline collect {run.run_id}")
    assert clone.ran("dvc repro") == []
    assert not (clone.folder / "outputs/exported").exists()


def test_collect_without_a_run_uses_the_workspace_keys(clone: Clone, computed: dict[str, str]) -> None:
    clone.run("python -m pipeline collect")
    assert clone.ran("dvc repro") == []


def _assert_rejected(clone: Clone, command: str, *messages: str) -> None:
    done = clone.start(command)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("pipeline: ")
    assert done.stderr.rstrip().endswith("no file was changed")
    for message in messages:
        assert message in done.stderr
    assert not (clone.folder / "outputs").exists()
    assert not (clone.folder / "dvc.lock").exists()


def test_different_param_is_reported(clone: Clone, run: str) -> None:
    params = clone.folder / "params.yaml"
    text = params.read_text()
    edit_params(params, {"train.lr": 0.5})
    _assert_rejected(
        clone, f"python -m pipeline collect {run}", "train.lr is 0.5 in the workspace and 0.002 in the run"
    )
    params.write_text(text)
    edit_params(params, {"augment.num_aug": 3})
    _assert_rejected(
        clone, f"python -m pipeline collect {run}", "augment.num_aug is 3 in the workspace and 2 in the run"
    )
    params.write_text(text)
    edit_params(params, {"evaluate.pass_at_k": [1, 3]})
    _assert_rejected(
        clone,
        f"python -m pipeline collect {run}",
        "evaluate.pass_at_k is [1, 3] in the workspace and [1, 2] in the run",
    )


def test_different_module_is_reported(clone: Clone, run: str) -> None:
    module = clone.folder / "trm/training/losses.py"
    module.write_text(module.read_text() + "\n# a comment\n")
    _assert_rejected(
        clone, f"python -m pipeline collect {run}", "trm/training/losses.py differs from the file that stage train"
    )


def test_unfinished_stage_is_reported(clone: Clone, server: FakeKfpServer, run: str, storage: SeaweedFS) -> None:
    parameters = server.runs[run].runtime_config.parameters
    server.runs[run].state = "RUNNING"
    parameters["artifact_root"] = "s3://trm/elsewhere"
    _assert_rejected(
        clone,
        f"python -m pipeline collect {run}",
        "s3://trm/elsewhere/fetch/",
        "no such artifact (state of the run: running)",
    )
    # Without a manifest, params are compared with the arguments of the run.
    parameters |= {"train_key": "0" * 64, "evaluate_key": "1" * 64, "artifact_root": ROOT_URI}
    params = json.loads(
        clone.run(
            'python -c "import json; from trm import load_params; '
            "print(load_params('params.yaml').model_dump_json())\""
        )
    )
    train = {**params["train"], "lr": 0.25}
    parameters |= {"model": parameter_text(params["model"]), "train": parameter_text(train)}
    _assert_rejected(
        clone, f"python -m pipeline collect {run}", "train.lr is 0.002 in the workspace and 0.25 in the run"
    )


def test_corrupt_object_changes_nothing(clone: Clone, run: str, computed: dict[str, str], storage: SeaweedFS) -> None:
    client, prefix = storage.client(), computed["evaluate"].removeprefix("s3://trm/")
    listed = client.list_objects_v2(Bucket="trm", Prefix=prefix)["Contents"]
    name = next(item["Key"] for item in listed if item["Key"].endswith("metrics.json"))
    whole = client.get_object(Bucket="trm", Key=name)["Body"].read()
    client.put_object(Bucket="trm", Key=name, Body=whole.replace(b"0", b"1"))
    done = clone.start(f"python -m pipeline collect {run}")
    client.put_object(Bucket="trm", Key=name, Body=whole)
    assert done.returncode in (1, 2)
    assert "metrics.json" in done.stderr.splitlines()[-1]
    assert not (clone.folder / "outputs/evaluation").exists()
    assert not (clone.folder / "dvc.lock").exists()


def test_list_uncollected(
    clone: Clone, server: FakeKfpServer, run: str, computed: dict[str, str], tmp_path: Path
) -> None:
    """Kubeflow stores the runs; git and runs.tsv show which ones were collected."""
    clone.run(f"git init -q --bare {tmp_path}/remote && git remote add origin {tmp_path}/remote")
    clone.run("git push -q origin HEAD:main && git fetch -q origin")
    commit = clone.run("git rev-parse HEAD").strip()
    server.runs[run].description = f"commit {commit}, image x"
    key = computed["evaluate"].rpartition("/")[2]

    def add(number: int, state: str, description: str = f"commit {commit}, image x") -> str:
        config = _config({"parameters": {"evaluate_key": str(number) * 64}})
        return server.add_run("trm-y", state, runtime_config=config, description=description).run_id

    stopped, failed = add(1, "CANCELED"), add(2, "FAILED")
    add(3, "RUNNING")
    dirty = add(4, "SUCCEEDED", f"commit {commit}-dirty, image x")
    add(5, "FAILED")
    tried_again = add(5, "SUCCEEDED")

    done = clone.start("python -m pipeline list-uncollected")
    assert done.returncode == 0, done.stderr
    waiting = [{"run": run, "key": key, "commit": commit}, {"run": tried_again, "key": "5" * 64, "commit": commit}]
    assert sorted(json.loads(done.stdout), key=lambda one: one["key"] != key) == waiting
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    for run_id, message in (
        (stopped, "canceled: not collected, the champion is unchanged"),
        (failed, "failed: "),
        (dirty, "submitted with uncommitted changes; collect it manually"),
    ):
        assert any(run_id in line and message in line for line in lines), lines
    # Runs with a branch or a row in runs.tsv are not listed.
    clone.run(f"git push -q origin HEAD:refs/heads/retrain/{'5' * 12}")
    clone.run(f"python -m pipeline collect {run}")
    assert json.loads(clone.run("python -m pipeline list-uncollected")) == []


def test_canceled_run_is_reported(clone: Clone, server: FakeKfpServer, run: str) -> None:
    server.runs[run].state = "CANCELED"
    server.runs[run].runtime_config.parameters["artifact_root"] = "s3://trm/nothing-there"
    _assert_rejected(clone, f"python -m pipeline collect {run}", "no such artifact (state of the run: canceled)")


def test_outside_a_workspace(tmp_path: Path, clone: Clone, run: str) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(clone.folder / "params.yaml", alone)
    done = clone.start(f"cd {alone} && PYTHONPATH={clone.folder} python -m pipeline collect {run}")
    assert done.returncode == 2
    assert "dvc.yaml: no such file" in done.stderr
    assert [path.name for path in alone.iterdir()] == ["params.yaml"]
