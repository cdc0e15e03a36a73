"""Plans: rendering, and agreement with `dvc repro` and the artifacts in S3."""

import io
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipeline.dvc import Change
from pipeline.local.s3_server import SeaweedFS
from pipeline.retraining.plan import Plan, StagePlan
from pipeline.retraining.plan_text import markdown, show
from tests.clones import Clone, make_clone
from tests.params import edit_params
from tests.pipeline.published_results import workspace  # noqa: F401 - a fixture
from trm.stages.records import REQUIRED_STAGES

STAGE = StagePlan("train", "1" * 64, "run", "run", (Change("param", "train.lr", 0.002, 0.001),), (), 7200.0, None, 4.0)


def plan(**changes: Any) -> Plan:
    others = [
        StagePlan(s.name, "0" * 64, "unchanged", "exists", (), ("outputs/x",), None, None, 0.0) for s in REQUIRED_STAGES
    ]
    default = Plan("sudoku", (*others[:2], STAGE, others[3]), online=False, max_gpu_hours=None)
    return replace(default, **changes)


@pytest.mark.parametrize(
    ("limit", "expected", "needs_approval"),
    [(None, 4.0, False), (4.0, 4.0, False), (3.9, 4.0, True), (100.0, None, True)],
)
def test_expensive_or_unknown_plans_need_approval(
    limit: float | None, expected: float | None, needs_approval: bool
) -> None:
    stages = tuple(replace(stage, gpu_hours=expected if stage.runs else 0.0) for stage in plan().stages)
    assert plan(stages=stages, max_gpu_hours=limit).needs_approval is needs_approval


def test_stages_that_run_locally_and_on_the_cluster() -> None:
    stages = [
        replace(STAGE, stage=name, local=local, cluster=cluster)
        for name, local, cluster in (
            ("fetch", "pull", "exists"),
            ("augment", "run", "exists"),
            ("train", "restore", "run"),
            ("evaluate", "run", "run"),
        )
    ]
    mixed = plan(stages=tuple(stages))
    assert (mixed.local, mixed.cluster) == (["augment", "evaluate"], ["train", "evaluate"])
    assert [stage.runs for stage in mixed.stages] == [False, True, True, True]


def test_text_fits_80_columns_and_contains_reasons() -> None:
    many = tuple(Change("module", f"trm/training/a_module_of_this_project_{n}.py") for n in range(6))
    stages = tuple(replace(stage, reasons=(*STAGE.reasons, *many)) if stage.runs else stage for stage in plan().stages)
    console = Console(width=80, record=True, file=io.StringIO())
    show(plan(stages=stages, max_gpu_hours=2.0), console)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    for part in (
        "train runs",
        "train.lr 0.002 → 0.001",
        "2 h 0 min",
        "4 GPU hours (limit 2): approval required",
        "--online",
    ):
        assert part in re.sub(r"\s+", " ", text), text


def test_markdown_cells_are_escaped() -> None:
    stages = tuple(
        replace(stage, reasons=(Change("param", "data.alphabet", "a|b", "<b>"),)) if stage.runs else stage
        for stage in plan().stages
    )
    text = markdown(plan(stages=stages))
    assert text.startswith("<!-- trm: plan -->\n")
    row = next(line for line in text.splitlines() if line.startswith("| train"))
    assert row.replace("\\|", "").count("|") == 6
    assert "\\<b\\>" in row


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    server = SeaweedFS(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, storage: SeaweedFS) -> Clone:
    """A workspace with a result that was collected from S3."""
    clone = make_clone(tmp_path_factory.mktemp("plan"))
    clone.environment |= storage.environment() | {"TRM_CACHE_DIR": str(clone.folder / "cache")}
    clone.run("dvc repro")
    clone.run(PUBLISH)
    clone.run("rm -rf cache && python -m pipeline collect && git add -A && git commit -qm collected")
    return clone


PUBLISH = """python -c "
import json
from pathlib import Path
from trm.storage import s3
from trm.storage.artifacts import read_manifest, timing_file
from trm.stages.records import REQUIRED_STAGES
for stage in REQUIRED_STAGES:
    folder = Path('outputs') / stage.output
    uri = f's3://trm/artifacts/{stage.name}/' + read_manifest(folder)['key']
    s3.publish(folder, uri)
    s3.put_json(f'{uri}/timing.json', json.loads(timing_file(folder).read_text()))
" """


def planned(clone: Clone, options: str = "") -> dict[str, Any]:
    return json.loads(clone.run(f"python -m pipeline plan --json {options}"))


def reasons(plan: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    return {s["stage"]: [(c["kind"], c["name"]) for c in s["reasons"]] for s in plan["stages"] if s["runs"]}


TRAINING = ("module", "trm/training")  # dvc.yaml lists folders
MODEL_AND_SCORES = [("input", "model"), ("input", "evaluation")]
# File, pattern, replacement; stages that run -> reasons.
CHANGES = {
    "nothing": ("params.yaml", "seed: 0", "seed: 0", {}),
    "a param of evaluate": (
        "params.yaml", r"votes: \d+", "votes: 3",
        {"evaluate": [("param", "evaluate.num_votes")], "report": [("input", "evaluation")]},
    ),
    "a param of train": (
        "params.yaml", r"\n  lr: .*", "\n  lr: 0.25",
        {"train": [("param", "train.lr")], "evaluate": [("input", "model")], "report": MODEL_AND_SCORES},
    ),
    "a param of augment": (
        "params.yaml", r"num_aug: \d+", "num_aug: 3",
        {
            "augment": [("param", "augment.num_aug")],
            "train": [("input", "dataset")],
            "evaluate": [("input", "dataset"), ("input", "model")],
            "report": [("input", "dataset"), *MODEL_AND_SCORES],
        },
    ),
    "a module of train": (
        "trm/training/losses.py", r"\Z", "\n# a comment\n",
        {
            "train": [TRAINING],
            "evaluate": [TRAINING, ("input", "model")],
            "report": [TRAINING, *MODEL_AND_SCORES],
        },
    ),
    "an optional stage": (
        "params.yaml", r"weights: \[\]", "weights: [ema]", {"export": [("unrecorded", "export")]}
    ),
    "section cluster": ("params.yaml", "image: .*", "image: other@sha256:1", {}),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_dvc_repro_follows_the_plan(clone: Clone, change: tuple[str, str, str, dict]) -> None:
    name, old, new, expected = change
    file = clone.folder / name
    text = file.read_text()
    try:
        file.write_text(re.sub(old, new, text, count=1))
        result = planned(clone)
        assert reasons(result) == expected
        assert result["runs"] == {"local": list(expected), "cluster": list(expected)}
        assert planned(clone, "--online")["runs"]["cluster"] == list(expected)  # artifacts under the current keys
        # `--dry` does not know that the outputs of earlier stages will change.
        direct = [stage for stage, changes in expected.items() if {kind for kind, _ in changes} != {"input"}]
        assert re.findall(r"Running stage '(\w+)(?:@\w+)?'", clone.run("dvc repro --dry")) == direct
        if "train.lr" in str(expected):
            assert clone.ran("dvc repro") == list(expected)
    finally:
        file.write_text(text)
        clone.run("git checkout -q -- dvc.lock && dvc checkout -q")


@pytest.mark.slow
def test_run_cache_results_are_restored(clone: Clone) -> None:
    """The result was computed locally: it is in DVC's run cache, but not in S3."""
    params = clone.folder / "params.yaml"
    text = params.read_text()
    try:
        edit_params(params, {"evaluate.num_votes": 2})
        clone.run("dvc repro")
        params.write_text(text)
        clone.run("dvc repro")
        edit_params(params, {"evaluate.num_votes": 2})
        result = planned(clone)
        assert [stage["local"] for stage in result["stages"]] == ["unchanged"] * 3 + ["restore"] * 2
        assert result["runs"] == {"local": [], "cluster": ["evaluate", "report"]}
        assert clone.ran("dvc repro") == []
    finally:
        params.write_text(text)
        clone.run("git checkout -q -- . && dvc checkout -q")


@pytest.mark.slow
def test_fresh_clone_requires_a_pull(clone: Clone, tmp_path: Path) -> None:
    fresh = Clone(tmp_path / "fresh", tmp_path / "states")
    clone.run(f"git clone -q . {fresh.folder}")
    result = planned(fresh)
    assert [stage["local"] for stage in result["stages"]] == ["pull"] * 5
    assert result["runs"] == {"local": [], "cluster": []}
    assert "dvc pull" in fresh.run("python -m pipeline plan")


@pytest.mark.slow
def test_plan_uses_no_torch_and_no_network(clone: Clone) -> None:
    """No connection is opened, heavy packages are not imported, and no file is changed."""
    code = (
        "import sys, runpy, socket; socket.socket.connect = None; sys.argv = ['pipeline', 'plan', '--json']\n"
        "try: runpy.run_module('pipeline', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print(sorted({'torch', 'boto3', 'botocore', 'kfp'} & set(sys.modules)), file=sys.stderr)"
    )
    before = clone.run("git status --porcelain --ignored")
    # The `python` of the clone is a fork of a process that has imported these packages.
    done = clone.start(f'{sys.executable} -c "{code}"')
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"
    assert clone.run("git status --porcelain --ignored") == before


@pytest.mark.usefixtures("workspace")
def test_unreadable_files_are_reported(workspace: Path) -> None:  # noqa: F811
    from pipeline.dvc import stage_status
    from trm.utils.errors import UserError

    with pytest.raises(UserError, match=r"dvc\.yaml: no such file"):
        stage_status(Path("params.yaml"))
    Path("dvc.yaml").write_text("stages: {}\n")
    Path("params.yaml").write_text("lr: 1\n")
    Path("params.yaml").write_text("lr: b: c\n")
    with pytest.raises(UserError, match=r"params\.yaml: not readable as YAML; correct it"):
        stage_status(Path("params.yaml"))


@pytest.mark.usefixtures("workspace")
def test_cut_lock_file(workspace: Path) -> None:  # noqa: F811
    """Every cut that DVC would not read is reported with its remedy, also before DVC is called."""
    from pipeline.dvc import dvc, read_lock, stage_status
    from trm.utils.errors import UserError

    Path("dvc.yaml").write_text("stages: {}\n")
    whole = (
        "schema: '2.0'\nstages:\n  a:\n    cmd: trm a\n    deps:\n    - path: code\n      hash: md5\n      md5: 0f\n"
        "    params:\n      params.yaml:\n        data: 1\n    outs:\n    - path: x\n      hash: md5\n      md5: 76\n"
    )
    Path("params.yaml").write_text("lr: 1\n")
    lock = Path("dvc.lock")
    assert read_lock() == {}
    lock.write_text(whole)
    assert list(read_lock()) == ["a"]
    complete = len(whole.rstrip()) - 1  # a shorter digest is another digest
    for text in (
        *(whole[:size] for size in range(complete)),
        "<<<<<<< HEAD\na: b: c\n",
        "[1]",
        "\0" * 9,
        "stages: {a: 1}",
    ):
        lock.write_text(text)
        for read in (lambda: stage_status(Path("params.yaml")), lambda: dvc("push")):
            with pytest.raises(
                UserError, match=r"^dvc\.lock: empty, cut or .*; restore it with `git checkout dvc.lock`"
            ):
                read()
    lock.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="delete it and run `dvc repro`"):
        read_lock()
