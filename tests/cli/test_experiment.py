"""Experiments without DVC and a checkout: `trm init`, `trm run`, the model `demo`, and hints that work there."""

import json
import re
from pathlib import Path

import pytest

from tests.cli.helpers import Run, check_error
from tests.conftest import ROOT
from tests.params import edit_params
from trm.config.recipes import recipe_text
from trm.stages.records import REQUIRED_STAGES
from trm.storage.artifacts import verified_manifest

STAGE_NAMES = [stage.name for stage in REQUIRED_STAGES]
DEMO = ROOT / "trm/inference/demo_model"


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def stages_that_ran(err: str) -> list[str]:
    return [line.split()[0] for line in err.splitlines() if line.endswith(": runs")]


@pytest.mark.parametrize(("arguments", "recipe"), [([], "sudoku-6x6"), (["hrm"], "hrm")])
def test_init(run: Run, empty: Path, arguments: list[str], recipe: str) -> None:
    assert run("init", *arguments) == (0, f"params.yaml is recipe {recipe}; `trm run` runs it\n", "")
    text = (empty / "params.yaml").read_text()
    assert text == recipe_text(recipe)
    check_error(run("init", "maze-small"), "params.yaml: exists", "`trm recipe use maze-small` replaces it")
    assert (empty / "params.yaml").read_text() == text


def test_init_of_an_unknown_recipe(run: Run, empty: Path) -> None:
    check_error(run("init", "sudoku-6x7"), "did you mean sudoku-6x6?")
    assert not list(empty.iterdir())


def test_run(run: Run, here: Path) -> None:
    """Only what a change concerns runs again, and the results are those of the stages."""
    code, out, err = run("run")
    assert code == 0
    assert stages_that_ran(err) == STAGE_NAMES
    assert "  exact accuracy" in out
    assert re.search(r"\nrun: outputs in \d:\d\d\nnext: trm visualize --index 0\n$", out)
    keys = {stage.output: verified_manifest(here / "outputs" / stage.output)["key"] for stage in REQUIRED_STAGES}
    code, again, err = run("run")
    assert (code, stages_that_ran(err)) == (0, [])
    assert err.count("up to date") == len(REQUIRED_STAGES)
    assert _without_time(again) == _without_time(out)
    code, _, err = run("run", "--set", "evaluate.num_votes=2")
    assert (code, stages_that_ran(err)) == (0, ["evaluate", "report"])
    metrics = json.loads((here / "outputs/evaluation/metrics.json").read_text())
    assert metrics["num_votes"] == 2
    assert run("evaluate")[0] == 0
    assert verified_manifest(here / "outputs/evaluation")["key"] == keys["evaluation"]
    (here / "outputs/raw/train.csv").write_text("damaged")
    assert stages_that_ran(run("run")[2]) == ["fetch", "report"]


def _without_time(out: str) -> str:
    return re.sub(r"run: outputs in \d:\d\d", "run: outputs", out)


def test_errors_of_run(run: Run, here: Path, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_error(run("run"), "params.yaml: no such file; `trm init` writes params.yaml")
    check_error(run("run", "--params", here / "params.yaml", "--set", "trian.lr=1"), "did you mean train?")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_error(run("run", "--params", here / "params.yaml"), "all stages run in a single process")
    assert not list(empty.iterdir())


@pytest.mark.parametrize(("has_dvc", "command"), [(True, "dvc repro"), (False, "trm run")])
def test_hints_name_commands_that_exist(run: Run, empty: Path, has_dvc: bool, command: str) -> None:
    if has_dvc:
        (empty / "dvc.yaml").write_text("stages: {}\n")
    assert f"`{command}` runs it" in run("recipe", "use", "sudoku-4x4")[1]
    for arguments in (["train"], ["solve", "." * 16], ["evaluate"]):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert f"`{command}`" in err
        assert ("dvc" in err) == has_dvc


def test_the_included_model(run: Run, here: Path) -> None:
    """Every command that takes a model takes `demo`."""
    edit_params(here / "params.yaml", {"data.size": 6, "augment.num_aug": 0})
    for stage in ("fetch", "augment"):
        assert run(stage)[0] == 0
    puzzle = ".6..2........5.......3.1...43.42...6"
    sweep = ("--max-steps", 1, "--num-votes", 1, "--num-samples", 1, "--latent-noise-std", "")
    code, out, _ = run("evaluate", "--model", "demo", "--set", "evaluate.num_votes=1", "--evaluation", "e")
    assert code == 0
    assert out.endswith("next: trm report --model demo --evaluation e\n")
    for arguments in (
        ("report", "--model", "demo", "--evaluation", "e"),
        ("visualize", "--model", "demo", "--max-steps", 1),
        ("visualize", puzzle, "--model", "demo", "--max-steps", 1),
        ("sweep", "demo", *sweep),
        ("inspect", "demo"),
        ("model-summary", "--model", "demo"),
        ("checkpoint", "export", "demo"),
    ):
        code, _, err = run(*arguments)
        assert code == 0, (arguments, err)
    assert run("solve", puzzle, "--model", "demo")[0] in (0, 3)
    assert run("model-summary", "--model", "demo")[1].startswith("trm for sudoku 6 x 6: 77,954")
    check_error(run("model-summary", "--model", "nowhere"), "nowhere: no such file")


def test_messages_name_the_included_model_as_typed(run: Run, here: Path) -> None:
    for stage in ("fetch", "augment"):  # of 4x4 Sudoku
        assert run(stage)[0] == 0
    check_error(run("sweep", "demo"), "trm: demo: trained on sudoku 6 x 6 with 8 tokens")


def test_the_included_model_is_an_undamaged_artifact() -> None:
    manifest = verified_manifest(DEMO, "train")
    assert set(manifest["files"]) == {"README.md", "checkpoint.safetensors"}
