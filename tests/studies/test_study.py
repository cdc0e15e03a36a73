"""Studies: their runs, skipping of finished runs, and the report."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from trm.config.recipes import studies
from trm.config.tracking import TrackingParams
from trm.datasets.registry import expected_meta
from trm.evaluation.metrics import proportion
from trm.stages.records import STAGES, Stage
from trm.studies import study as module
from trm.studies.report import Result, curves, markdown, over_seeds, table, write_report
from trm.studies.study import Run, Study, load_study, run_study, runs_of, stages_to
from trm.training.cost import training_operations
from trm.utils.errors import InternalError, ParamsError, UserError

TINY = Study.model_validate(
    {
        "base": "sudoku-4x4",
        "changes": {
            "data.source.train_puzzles": 40,
            "data.source.test_puzzles": 6,
            "augment.num_aug": 1,
            "augment.validation_groups": 5,
            "train.epochs": 2,
            "train.log_interval": 1,
            "train.eval_interval": 1,
            "train.device": "cpu",
            "evaluate.device": "cpu",
            "evaluate.num_votes": 1,
            "evaluate.pass_at_k": [1],
        },
        "runs": {"baseline": {"seeds": 2}, "less-recursion": {}},
    }
)


def operations(runs: list[Run]) -> list[int]:
    """Operations of the trainings, for equal numbers of examples per epoch."""
    result = []
    for run in runs:
        meta = expected_meta(run.params.data)
        assert meta is not None
        result.append(training_operations(run.params.model, run.params.train, meta, run.params.train.epochs))
    return result


@pytest.mark.parametrize("name", studies())
def test_included_studies_are_valid(name: str, tmp_path: Path) -> None:
    study, title = load_study(name)
    runs = runs_of(study, tmp_path)
    assert len({run.name for run in runs}) == sum(variation.seeds for variation in study.runs.values())
    assert [run.params.train.seed for run in runs] == [run.seed for run in runs]
    assert len({run.params.data.model_dump_json() for run in runs}) == 1
    if name.startswith("methods-"):
        first, *others = operations([run for run in runs if run.seed == runs[0].seed])
        assert others == pytest.approx([first] * len(others), rel=0.03)
    else:
        assert len({run.params.train.epochs for run in runs}) == 1
    assert title


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"runs": {}}, "a study needs runs or a grid"),
        ({"grid": {"values": {}}}, "grid.values"),
        ({"grid": {"values": {"train.lr": []}}}, "grid.values.train.lr"),
        ({"grid": {"values": {"train.lr": [0.1, 0.1]}}}, "two combinations have the name lr-0-1; list them in runs"),
        (
            {"runs": {"lr-0-1": {}}, "grid": {"values": {"train.lr": [0.1, 0.2]}}},
            "lr-0-1 is a name in runs and in the grid; rename it in runs",
        ),
    ],
)
def test_mistakes_in_a_grid(changes: dict[str, object], problem: str, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(json.dumps({**TINY.model_dump(exclude={"grid"}), **changes}))
    with pytest.raises(ParamsError, match=re.escape(problem)):
        load_study(str(file))


def test_example_of_the_documentation_is_valid(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/studies.md").read_text(), re.S)
    (tmp_path / "rates.yaml").write_text(block)
    study, title = load_study(str(tmp_path / "rates.yaml"))
    assert title == "Learning rates and depths"
    assert [run.recipe for run in runs_of(study, tmp_path) if run.seed == 0][:2] == ["baseline", "lr-0-001-l-cycles-2"]


def test_grid_has_every_combination_with_its_seeds(tmp_path: Path) -> None:
    grid = {"seeds": 2, "values": {"train.lr": [0.1, 0.2], "train.epochs": [3], "model.arch": ["trm", "hrm"]}}
    study = Study.model_validate({**TINY.model_dump(), "runs": {}, "grid": grid})
    runs = [
        (run.name, run.params.train.lr, run.params.train.epochs, run.params.model.arch)
        for run in runs_of(study, tmp_path)
    ]
    combinations = [(0.1, "trm"), (0.1, "hrm"), (0.2, "trm"), (0.2, "hrm")]
    assert runs == [
        (f"lr-0-{10 * lr:.0f}-arch-{arch}-{seed}", lr, 3, arch) for seed in range(2) for lr, arch in combinations
    ]


def test_runs_differ_only_in_their_changes(tmp_path: Path) -> None:
    runs = {run.name: run.params for run in runs_of(load_study("ablations-small")[0], tmp_path)}
    base = runs["baseline-0"].model.model_dump()
    less = runs["less-recursion-2"].model.model_dump()
    assert {key: value for key, value in less.items() if base[key] != value} == {"H_cycles": 2, "L_cycles": 2}
    assert (base["H_cycles"], base["L_cycles"]) == (3, 6)
    assert runs["no-ema-1"].train.ema_rate == 0
    assert runs["no-ema-1"].model == runs["baseline-1"].model
    assert list(runs)[:2] == ["baseline-0", "no-ema-0"]  # the first seed of every variation before any second
    assert list(runs)[-1] == "bigger-net-2"


def test_invalid_studies(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="study ablation-small does not exist; did you mean ablations-small?"):
        load_study("ablation-small")
    with pytest.raises(ParamsError, match="no such file; give an existing file, or a study that ships"):
        load_study(str(tmp_path / "none.yaml"))
    (tmp_path / "custom.yaml").write_text("base: sudoku-4x4\nruns: {baseline: {seed: 1}}\n")
    with pytest.raises(ParamsError, match=r"custom.yaml: runs.baseline.seed is not a setting; did you mean seeds?"):
        load_study(str(tmp_path / "custom.yaml"))
    other = {"baseline": {}, "hrms": {}}
    with pytest.raises(UserError, match="recipe hrms does not exist; did you mean hrm?"):
        runs_of(Study.model_validate({"base": "sudoku-4x4", "runs": other}), tmp_path)
    broken = {"base": "sudoku-4x4", "changes": {"train.lr": "fast"}, "runs": {"baseline": {}}}
    with pytest.raises(ParamsError, match=r"train.lr must be a valid number. Got 'fast'"):
        runs_of(Study.model_validate(broken), tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_stages_to(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["fetch", "augment", "train", "evaluate"]
    assert [stage.name for stage in stages_to("evaluation")] == wanted
    assert [stage.name for stage in stages_to("model")] == wanted[:3]
    later = Stage("later", ("report",), ("dataset", "evaluation"), "later", "trm.later:later", "Not required.")
    monkeypatch.setattr(module, "STAGES", (*STAGES, later))
    assert [stage.name for stage in stages_to("evaluation")] == wanted
    assert [stage.name for stage in stages_to("later")] == [*wanted, "later"]


def test_tracking_settings_of_runs(tmp_path: Path) -> None:
    runs = runs_of(TINY, tmp_path / "small", TrackingParams(mode="offline", tags=("custom",)))
    tracked = [(run.tracking.group, run.tracking.tags) for run in runs if run.tracking]
    assert tracked == [("small", ("custom", recipe)) for recipe in ("baseline", "less-recursion", "baseline")]
    named = runs_of(TINY, tmp_path / "small", TrackingParams(mode="offline", group="mine"))
    assert {run.tracking.group for run in named if run.tracking} == {"mine"}
    assert [run.tracking for run in runs_of(TINY, tmp_path / "small")] == [None] * 3


def test_interval_over_seeds() -> None:
    """0.5, 0.6, 0.7: mean 0.6, deviation 0.1, t(2) = 4.3027: 0.6 ± 4.3027 * 0.1 / sqrt(3)."""
    assert over_seeds([0.5, 0.6, 0.7], 10_000) == pytest.approx([0.6 - 0.24842, 0.6 + 0.24842], abs=1e-4)


@pytest.mark.parametrize(("score", "hits"), [(0.0, 0), (0.25, 25), (1.0, 100)])
def test_equal_seeds_have_an_interval(score: float, hits: int) -> None:
    """As wide as the Wilson interval over 100 puzzles: equal scores of three seeds are not certain."""
    low, high = over_seeds([score] * 3, 100)
    wilson = proportion(hits, 100)
    assert wilson["low"] is not None
    assert wilson["high"] is not None
    assert high - low == pytest.approx(wilson["high"] - wilson["low"])
    assert (low + high) / 2 == pytest.approx(score)


def result(recipe: str, seed: int, exact: float, losses: list[float]) -> Result:
    scores = {"exact_accuracy": exact, "cell_accuracy": exact, "halt_accuracy": exact}
    metrics = {**scores, "puzzles": 100, "interval_95": {name: [exact - 0.1, exact + 0.1] for name in scores}}
    timing = {"steps_per_second": 4.0, "train_seconds": 50.0}
    log = {"step": np.arange(1, len(losses) + 1) * 100, "loss": np.array(losses)}
    validation = {"step": np.array([100, 200]), "exact_accuracy": np.array([0.6, exact + 0.1])}
    facts = {"parameters": 1234, "steps": 200, "device": "cpu"}
    return Result(recipe, seed, metrics, facts, timing, 42, log, validation, (1e12 + seed * 1e12, 4e12, 5e12))


def test_table_and_report(tmp_path: Path) -> None:
    results = [result("b", 1, 0.25, [2, 2]), result("a", 0, 0.5, [3, 1, 2]), result("a", 1, 0.7, [5, 3, 4])]
    first, second = markdown(table(results))[2:]  # the best first
    half = 12.706 * 0.1  # t(1) * deviation / sqrt(2)
    assert first.startswith(f"| a | 2 | 60.0 ± {100 * half:.1f} | ")
    assert "| 4 / 3 / 2 | 4.0 | 1,234 | 42 | 50 s cpu |" in first
    # 60 % at the first validation, after 1 and 2 * 10^12 operations and 25 s; seed 0 never reaches 70 %.
    assert first.endswith(" | 5 | 1.5 / - / - | 25 / - / - |")
    assert second.startswith("| b | 1 | 25.0 [15.0, 35.0] | ")
    assert [results[2].costs_to(level) for level in (0.5, 0.7, 0.9)] == [(2e12, 25), (4e12, 50), None]
    assert [text.get_text() for text in curves(results).legends[0].get_texts()] == ["a", "b"]
    assert results[0].seconds(np.array([100, 200])).tolist() == [25, 50]
    write_report("A title", results, {"c-0": "the loss is nan"}, tmp_path)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "curves.svg").read_text().count("<path") > 3
    report = (tmp_path / "report.md").read_text()
    assert report.startswith("# A title\n")
    assert "- c-0 failed: the loss is nan" in report
    again = (tmp_path / "curves.png").read_bytes()
    write_report("A title", results, {}, tmp_path)
    assert (tmp_path / "curves.png").read_bytes() == again


@pytest.mark.slow
def test_finished_runs_are_skipped_and_failed_ones_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRM_STATE_DIR", str(tmp_path / "states"))
    folder, finish = tmp_path / "study", Run.finish

    def failing(run: Run) -> None:
        if run.recipe == "less-recursion":
            raise InternalError("the loss is nan")
        finish(run)

    monkeypatch.setattr(Run, "finish", failing)
    with pytest.raises(InternalError, match=r"1 of 3 runs failed \(less-recursion-0\)"):
        run_study(TINY, folder, "tiny")
    assert json.loads((folder / "report.json").read_text())["failed"] == {"less-recursion-0": "the loss is nan"}
    assert len(list((folder / "data").iterdir())) == 2  # raw puzzles and a dataset, shared by all runs
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("manifest.json")}
    assert len(before) == 2 + 2 * 2
    monkeypatch.setattr(Run, "finish", finish)
    capsys.readouterr()
    run_study(TINY, folder, "tiny")
    messages = capsys.readouterr().err
    assert re.findall(r"(?m)^(\S+)-0 \(\d of 3\)$", messages) == ["baseline", "less-recursion"]
    assert messages.count("train:") == 1
    assert {path: path.stat().st_mtime_ns for path in before} == before
    report = json.loads((folder / "report.json").read_text())
    assert report["failed"] == {}
    assert report["recipes"]["baseline"]["seeds"] == 2
    assert set(report["recipes"]) == set(TINY.runs)
    assert module.BASELINE in TINY.runs
