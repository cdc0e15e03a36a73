"""`make retrain CLUSTER=local` in Docker with a real S3: a better model is promoted, a worse one refused."""

import json
import re
from collections.abc import Iterator

import pytest

from pipeline.git import RESULTS
from tests.clones import Clone, make_clone
from tests.containers import Image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
IN_S3 = "source .dev/env && python -m pipeline"

# A 4x4 Sudoku that is learned within seconds, with enough validation puzzles to tell two models apart.
LEARNED = {
    r"train_puzzles: \d+": "train_puzzles: 600",
    r"test_puzzles: \d+": "test_puzzles: 10",
    r"num_aug: \d+": "num_aug: 20",
    r"validation_groups: \d+": "validation_groups: 30",
    r"hidden_size: \d+": "hidden_size: 64",
    r"num_heads: \d+": "num_heads: 4",
    r"global_batch_size: \d+": "global_batch_size: 32",
    r"epochs: \d+": "epochs: 1",
    r"lr_warmup_steps: \d+": "lr_warmup_steps: 20",
    r"\n  steps: \d+": "\n  steps: 4",
    r"votes: \d+": "votes: 1",
}


@pytest.fixture(scope="module")
def clone(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    clone = make_clone(tmp_path_factory.mktemp("retrain"))
    clone.environment |= {"DOCKER_HOST": image.engine.host, "TRM_CACHE_DIR": str(clone.folder.with_name("cache"))}
    image.engine.run("tag", image.name, "trm-retrained:latest")
    clone.run("make dev-up")
    yield clone
    clone.run("make dev-down")


def change(clone: Clone, changes: dict[str, str]) -> None:
    """Edit params.yaml and commit it, and the results before it."""
    params = clone.folder / "params.yaml"
    text = params.read_text()
    for old, new in changes.items():
        text, count = re.subn(old, new, text)
        assert count == 1, old
    params.write_text(text)
    clone.run("git add -A && git commit -qm 'a change'")


def retrain(clone: Clone) -> tuple[int, str]:
    """Exit code of the command, which make tells, and the last lines."""
    done = clone.start("make retrain CLUSTER=local IMAGE=trm-retrained")
    code = re.findall(r"\[retrain\] Error (\d+)|\[Makefile:\d+: retrain\] Error (\d+)", done.stderr)
    assert not [line for line in done.stderr.splitlines() if "Traceback" in line], done.stderr
    return int("".join(code[-1])) if code else done.returncode, f"{done.stdout}\n{done.stderr}"


def test_the_whole_way_of_a_change(clone: Clone) -> None:
    change(clone, LEARNED)
    code, said = retrain(clone)
    assert code == 0, said
    assert "(version 1)" in said
    for name in RESULTS:
        assert (clone.folder / name).is_file()
    first = json.loads((clone.folder / "metrics.json").read_text())["keys"]["evaluate"]

    change(clone, {r"epochs: \d+": "epochs: 20"})
    code, said = retrain(clone)
    assert code == 0, said
    assert "The candidate is better" in said
    assert "of 30 validation puzzles" in said
    assert "(version 2)" in said
    assert sorted(clone.run("git diff --name-only").split()) == sorted(RESULTS)
    assert clone.ran("dvc repro") == []
    champion = json.loads(clone.run(f"{IN_S3} champion --json"))
    assert champion["commit"] == clone.run("git rev-parse HEAD").strip()
    assert (champion["run"], champion["image"][:7], len(champion["dvc_lock"])) == ("local", "sha256:", 64)
    assert set(champion["keys"]) == {"fetch", "augment", "train", "evaluate"}

    # The worse one has been trained already: what `make retrain` does with a result is what `promote` does.
    refused = clone.start(f"{IN_S3} promote {first[:12]}")
    said = refused.stdout + refused.stderr
    assert refused.returncode == 4, said
    assert "The candidate is worse" in said
    assert "not promoted: the champion stays" in said
    assert json.loads(clone.run(f"{IN_S3} champion --json")) == champion
    assert (clone.folder / "outputs/comparison.html").read_text().startswith("<!DOCTYPE html>")

    assert "(version 3, version 1 again)" in clone.run(f"{IN_S3} rollback")
    assert "before: " in clone.run(f"{IN_S3} champion")
    plan = json.loads(clone.run("python -m pipeline plan --json"))
    assert plan["runs"] == {"here": [], "cluster": []}


def test_mistakes_are_one_line(clone: Clone) -> None:
    for command, words in {
        "compare 000000000000": "there is no such result",
        f"promote {'0' * 64}": "there is no such result; name a run or a key whose result lies below",
        "compare run-of-nobody --params nosuch.yaml": "nosuch.yaml: no such file",
        "rollback --to 99": "has no version 99",
        "champion --data-set nobodys": "there is no champion yet",
    }.items():
        done = clone.start(f"{IN_S3} {command}")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert words in done.stderr
