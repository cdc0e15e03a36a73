"""`make retrain CLUSTER=local` in Docker with an S3 server: promotion of a better and rejection of a worse model."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.git import RESULT_FILES
from tests.clones import Clone, make_clone
from tests.containers import Image
from tests.params import edit_params

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
IN_S3 = "source .dev/env && python -m pipeline"

# A 4x4 Sudoku experiment of a few seconds, with enough validation puzzles to distinguish two models.
LEARNED: dict[str, Any] = {
    "data.source.train_puzzles": 600,
    "data.source.test_puzzles": 10,
    "augment.num_aug": 20,
    "augment.validation_groups": 30,
    "model.hidden_size": 64,
    "model.num_heads": 4,
    "model.L_cycles": 2,
    "train.global_batch_size": 32,
    "train.lr": 4.0e-3,
    "train.epochs": 1,
    "train.lr_warmup_steps": 20,
    "evaluate.max_steps": 4,
    "evaluate.num_votes": 1,
}


@pytest.fixture(scope="module")
def clone(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    clone = make_clone(tmp_path_factory.mktemp("retrain"))
    clone.environment |= {"DOCKER_HOST": image.engine.host, "TRM_CACHE_DIR": str(clone.folder.with_name("cache"))}
    image.engine.run("tag", image.name, "trm-retrained:latest")
    clone.run("make dev-up")
    yield clone
    clone.run("make dev-down")


def change(clone: Clone, changes: dict[str, Any]) -> None:
    """Edit params.yaml and commit it together with the previous results."""
    edit_params(clone.folder / "params.yaml", changes)
    clone.run("git add -A && git commit -qm 'a change'")


def retrain(clone: Clone) -> tuple[int, str]:
    """Run the make target; return the exit code of its command, which make prints, and the output."""
    done = clone.start("make retrain CLUSTER=local IMAGE=trm-retrained")
    code = re.findall(r"\[retrain\] Error (\d+)|\[Makefile:\d+: retrain\] Error (\d+)", done.stderr)
    assert not [line for line in done.stderr.splitlines() if "Traceback" in line], done.stderr
    return int("".join(code[-1])) if code else done.returncode, f"{done.stdout}\n{done.stderr}"


def test_better_model_is_promoted_and_worse_model_rejected(clone: Clone) -> None:
    change(clone, LEARNED)
    code, output = retrain(clone)
    assert code == 0, output
    assert "(version 1)" in output
    for name in RESULT_FILES:
        assert (clone.folder / name).is_file()
    first = json.loads((clone.folder / "metrics.json").read_text())["keys"]["evaluate"]

    change(clone, {"train.epochs": 12})
    code, output = retrain(clone)
    assert code == 0, output
    assert "The candidate is better" in output
    assert "of 30 validation puzzles" in output
    assert "(version 2)" in output
    assert sorted(clone.run("git diff --name-only").split()) == sorted(RESULT_FILES)
    assert clone.ran("dvc repro") == []
    champion = json.loads(clone.run(f"{IN_S3} champion --json"))
    assert champion["commit"] == clone.run("git rev-parse HEAD").strip()
    assert (champion["run"], champion["image"][:7], len(champion["dvc_lock"])) == ("local", "sha256:", 64)
    assert set(champion["keys"]) == {"fetch", "augment", "train", "evaluate"}

    # The worse model exists already: `make retrain` promotes as `promote` does.
    rejected = clone.start(f"{IN_S3} promote {first[:12]}")
    output = rejected.stdout + rejected.stderr
    assert rejected.returncode == 4, output
    assert "The candidate is worse" in output
    assert "not promoted: the champion is unchanged" in output
    assert json.loads(clone.run(f"{IN_S3} champion --json")) == champion
    assert (clone.folder / "outputs/comparison.html").read_text().startswith("<!DOCTYPE html>")

    assert "(version 3, restored from version 1)" in clone.run(f"{IN_S3} rollback")
    assert "previous: " in clone.run(f"{IN_S3} champion")
    plan = json.loads(clone.run("python -m pipeline plan --json"))
    assert plan["runs"] == {"local": [], "cluster": []}


def test_user_errors_are_one_line(clone: Clone) -> None:
    for command, message in {
        "compare 000000000000": "no such result",
        f"promote {'0' * 64}": "no such result; pass a run id or the content key",
        "compare unknown-run --params nosuch.yaml": "nosuch.yaml: no such file",
        "rollback --to 99": "no version 99",
        "champion --dataset unknown": "no champion; run",
    }.items():
        done = clone.start(f"{IN_S3} {command}")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert message in done.stderr
