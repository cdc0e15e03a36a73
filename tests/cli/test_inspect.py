"""`trm inspect` recognizes every file and folder that `trm` writes, and tables fit a terminal of 80 columns."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.cli.helpers import Run, check_error
from trm.config.recipes import recipes, studies


@pytest.fixture
def outputs(run: Run, here: Path, finished: Path) -> Path:
    """The folder `outputs` in the current folder, with a sweep, an export, an import and a study."""
    shutil.copytree(finished / "outputs", here / "outputs")
    settings = ("--max-steps", "1,2", "--num-samples", 1, "--latent-noise-std", "", "--device", "cpu")
    assert run("sweep", *settings)[0] == 0
    assert run("checkpoint", "export")[0] == 0
    (file,) = here.glob("outputs/published/step_*")
    assert run("checkpoint", "import", file)[0] == 0
    scores = {f"{name}_accuracy": 0.5 for name in ("exact", "cell", "halt")}
    row = {"seeds": 3, **scores, "exact_accuracy_95": [0.4, 0.6], "loss_last": 1.25, "train_seconds": 7.0}
    (here / "study").mkdir()
    report = {"title": "A study of nothing", "recipes": {"no-ema": row}, "failed": {"hrm-0": "the disk is full"}}
    (here / "study/report.json").write_text(json.dumps(report))
    return here / "outputs"


def test_every_file_and_folder_is_recognized(run: Run, outputs: Path, finished: Path) -> None:
    files = {
        "outputs": ("outputs: 8 outputs", "imported", "a model imported from step_", "a test-time-compute sweep"),
        "outputs/raw": ("raw files", "written by `trm fetch`"),
        "outputs/raw/train.csv": ("raw files",),
        "outputs/dataset": ("sudoku 4x4", "written by `trm augment`"),
        "outputs/dataset/test": ("sudoku 4x4", "lineage (test)"),
        "outputs/dataset/test/examples.parquet": ("a part of outputs/dataset/test", "sudoku 4x4"),
        "outputs/dataset/meta.json": ("a part of outputs/dataset", "sudoku 4x4"),
        "outputs/model": ("outputs/model: a model", "dataset sudoku 4 x 4", "written by `trm train`"),
        "outputs/model/checkpoint.safetensors": ("a model", "dataset sudoku 4 x 4"),
        "outputs/model/train.tsv": ("a log of", "loss"),
        "outputs/evaluation": ("an evaluation; metrics", "exact_accuracy", "written by `trm evaluate`"),
        "outputs/evaluation/metrics.json": ("an evaluation; metrics", "exact_accuracy"),
        "outputs/evaluation/manifest.json": ("written by `trm evaluate`", "from model"),
        "outputs/evaluation/predictions.parquet": ("a part of outputs/evaluation", "exact_accuracy"),
        "outputs/evaluation.timing.json": ("time and machine of a stage", "seconds"),
        "outputs/report": ("an HTML report", "written by `trm report`"),
        "outputs/report/report.html": ("open it in a browser",),
        "outputs/sweep": ("a test-time-compute sweep", "Pareto front", "written by `trm sweep`"),
        "outputs/sweep/sweep.json": ("Pareto front",),
        "outputs/published": ("a checkpoint in the published format", "written by `trm checkpoint export`"),
        "outputs/published/all_config.yaml": ("the settings of a published checkpoint", "arch.hidden_size 16"),
        "outputs/imported": ("outputs/imported: a model imported from step_", "written by `trm checkpoint import`"),
        "outputs/imported/checkpoint.safetensors": ("a model imported from step_",),
        "params.yaml": ("params of an experiment", "model.hidden_size 16"),
        "study": ("A study of nothing", "no-ema 3 50.0 ± 10.0 50.0 50.0 1.25 7 s", "hrm-0 failed"),
        str(studies()["ablations-small"]): ("a study; `trm study` runs it", "runs.baseline.seeds 3"),
        str(recipes()["sudoku-4x4"]): ("a recipe that changes another one", "changes.data.size 4"),
    }
    (published,) = outputs.glob("published/step_*")
    files[f"outputs/published/{published.name}"] = ("weights in the published format; convert them",)
    for file, words in files.items():
        code, out, err = run("inspect", file)
        assert (code, err) == (0, ""), file
        for word in words:
            assert word in " ".join(out.split()), file


def test_unknown_files(run: Run, here: Path) -> None:
    (here / "notes.txt").write_text("notes")
    check_error(run("inspect", "notes.txt"), "notes.txt: not a file that trm writes or reads; give")
    check_error(run("inspect", "nowhere"), "nowhere: no such file or folder; give")
    (here / "list.yaml").write_text("- 1\n")
    check_error(run("inspect", "list.yaml"), "list.yaml: contains no settings")
    for text in ("[1]", "{"):
        (here / "metrics.json").write_text(text)
        check_error(run("inspect", "metrics.json"), "metrics.json: not a JSON object")


def test_puzzles_of_an_evaluation(run: Run, here: Path, finished: Path) -> None:
    shutil.copytree(finished / "outputs/evaluation", here / "evaluation")
    assert "no puzzles are shown: dataset is not the dataset of this evaluation" in run("inspect", "evaluation")[1]
    out = run("inspect", finished / "outputs/evaluation", "--puzzles", 2)[1]
    assert out.count("question      answer        solution") == 2
    assert out.count("halt probability") == 2
    assert "question" not in run("inspect", finished / "outputs/evaluation", "--puzzles", 0)[1]


TABLES = (
    *(("inspect", f"outputs/{name}") for name in ("raw", "dataset", "model", "evaluation", "report", "sweep")),
    *(
        ("inspect", f"outputs/{name}")
        for name in ("published", "imported", "evaluation.timing.json", "model/train.tsv")
    ),
    *(("inspect", name) for name in ("outputs", "params.yaml", "study")),
    *(("recipe", "list"), ("study", "list"), ("model-summary",), ("compare", "outputs", "other")),
    ("sweep", "--max-steps", "1,2,16", "--num-votes", "1,4", "--num-samples", "1,4"),
)


def test_tables_fit_80_columns(run: Run, outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is longer, and the words are those of a very wide terminal: none is broken or left out."""
    shutil.copytree(outputs, outputs.parent / "other")
    for words in TABLES:
        shown = {}
        for width in (80, 1000):
            monkeypatch.setenv("COLUMNS", str(width))
            code, out, _ = run(*words)
            assert code in (0, 3), words
            shown[width] = re.sub(r" in \d+:\d\d$", " in 0:00", out, flags=re.MULTILINE)  # the time taken varies
        assert max(map(len, shown[80].splitlines())) <= 80, words
        assert sorted(shown[80].split()) == sorted(shown[1000].split()), words
