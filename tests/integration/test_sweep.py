"""A sweep: one run of the pipeline for a study file, and its table."""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.cli import main
from tests.pipeline.kfp.driver import Driver
from tests.pipeline.kfp.fake_server import FakeKfpServer, kfp_server
from trm.config.params import Params
from trm.studies.study import load_study, run_study, runs_of

IMAGE = f"registry.example/trm@sha256:{'0' * 64}"
STUDY = """# Two learning rates
base: sudoku-4x4
changes:
  data.source.train_puzzles: 40
  data.source.test_puzzles: 6
  augment.num_aug: 1
  augment.validation_groups: 5
  train.epochs: 2
  train.log_interval: 1
  train.eval_interval: 1
  train.device: cpu
  evaluate.device: cpu
  evaluate.num_votes: 1
  evaluate.pass_at_k: [1]
runs:
  baseline: {}
  other-evaluation: {changes: {evaluate.max_steps: 2}}
grid:
  values: {train.lr: [2.0e-3, 4.0e-3]}
"""
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def server() -> Iterator[FakeKfpServer]:
    with kfp_server() as server:
        yield server


@pytest.fixture
def study(tmp_path: Path) -> Path:
    file = tmp_path / "rates.yaml"
    file.write_text(STUDY)
    return file


@pytest.fixture
def sweep(
    root: str,
    server: FakeKfpServer,
    study: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """Runs `python -m pipeline sweep` in this process; returns exit code, stdout, stderr."""
    from tests.params import TINY, params_text

    monkeypatch.chdir(study.parent)
    settings = {"cluster.kfp_host": server.host, "cluster.artifact_root": root, "cluster.image": IMAGE}
    Path("params.yaml").write_text(params_text({**TINY, **settings}))

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pipeline", "sweep", study.name, *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.mark.slow
def test_sweep_shares_stages_and_is_collected_into_one_table(
    sweep: Command, server: FakeKfpServer, tmp_path: Path
) -> None:
    code, out, err = sweep()
    assert (code, out) == (0, "run-1\n")
    assert "next: python -m pipeline sweep rates.yaml --collect" in err
    assert "no run of this sweep has a result yet" in sweep("--collect")[2]
    (body,) = server.bodies
    spec, arguments = body["pipeline_spec"]["pipeline_spec"], body["runtime_config"]["parameters"]
    broken = Driver(spec, tmp_path / "first", os.environ, kills={"evaluate lr-0-004-0": 99})
    broken.run(arguments)
    # `lr-0-002` has the learning rate of the recipe: it has the results of the baseline.
    assert {name for name in broken.ended if name.startswith("train")} == {"train baseline-0 +2", "train lr-0-004-0"}
    assert Counter(name.partition(" ")[0] for name in broken.ended) == {
        "fetch": 1, "augment": 1, "train": 2, "evaluate": 3, "sweep-summary": 1
    }  # fmt: skip
    assert {name for name, code in broken.ended.items() if code} == {"evaluate lr-0-004-0"}, broken.output
    assert "# Run failed: stage evaluate has no artifact" in broken.output["sweep-summary"]
    code, out, err = sweep("--collect")
    assert (code, err.splitlines()[-1]) == (0, "studies/rates/report.md: 1 runs have no result yet")
    report = Path("studies/rates/report.md").read_text()
    assert "lr-0-004-0" in report

    server.runs["run-1"].state = "FAILED"
    assert sweep()[1] == "run-2\n"
    again = Driver(server.bodies[-1]["pipeline_spec"]["pipeline_spec"], tmp_path / "second", os.environ)
    again.run(arguments)
    assert set(again.ended.values()) == {0}, again.output
    assert not {line for line in again.output["train lr-0-004-0"].splitlines() if line.startswith("train: ")}
    assert "# Run succeeded" in again.output["sweep-summary"]
    code, out, err = sweep("--collect")
    assert (code, err.splitlines()[-1]) == (0, "studies/rates/report.md")
    models = {path: path.stat().st_mtime_ns for path in Path("studies/rates").glob("*/*/manifest.json")}
    local, title = load_study("rates.yaml")
    run_study(local, Path("studies/rates"), title)  # takes over what was collected
    assert len(models) == 8
    assert {path: path.stat().st_mtime_ns for path in models} == models
    rows = json.loads(Path("studies/rates/report.json").read_text())
    assert {"baseline", "other-evaluation", "lr-0-002", "lr-0-004"} <= set(json.dumps(rows).replace('"', " ").split())


def test_same_sweep_is_found(sweep: Command, server: FakeKfpServer, study: Path) -> None:
    assert sweep()[:2] == (0, "run-1\n")
    code, out, err = sweep()
    assert (code, out) == (0, "run-1\n")
    assert "run run-1 exists (pending); --force starts a new one" in err
    assert sweep("--force")[1] == "run-2\n"
    study.write_text(STUDY.replace("4.0e-3", "5.0e-3"))
    assert sweep()[1] == "run-3\n"
    assert server.runs["run-3"].display_name.startswith("trm-sweep-")


def test_impossible_runs_are_named(sweep: Command, server: FakeKfpServer, study: Path) -> None:
    start = f"{{model: outputs/model, sha256: {'a' * 64}, reset_puzzle_emb: true}}"
    for change, problem in {
        f"{{train.init_from: {start}}}": "run bad-0: train.init_from.model must be an s3:// URI on a cluster",
        "{train.nothing: 1}": "pipeline: train.nothing is not a key of the params that it should change",
    }.items():
        study.write_text(STUDY.replace("  baseline: {}", f"  bad: {{changes: {change}}}"))
        code, _, err = sweep()
        assert (code, len(err.splitlines())) == (2, 1), err
        assert problem in err
    assert server.bodies == []


def test_runs_of_a_file_are_those_of_trm_study(study: Path, tmp_path: Path) -> None:
    """The same reader: every combination of the grid, after the runs that the file names."""
    study.write_text(
        STUDY.replace("{train.lr: [2.0e-3, 4.0e-3]}", "{train.lr: [2.0e-3, 4.0e-3], model.L_cycles: [2, 3]}")
    )
    runs = runs_of(load_study(str(study))[0], tmp_path)
    assert [run.name for run in runs] == [
        "baseline-0",
        "other-evaluation-0",
        "lr-0-002-l-cycles-2-0",
        "lr-0-002-l-cycles-3-0",
        "lr-0-004-l-cycles-2-0",
        "lr-0-004-l-cycles-3-0",
    ]

    def changed(params: Params) -> tuple[float, int]:
        return params.train.lr, params.model.L_cycles

    assert [changed(run.params) for run in runs[2:]] == [(0.002, 2), (0.002, 3), (0.004, 2), (0.004, 3)]
