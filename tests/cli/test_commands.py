"""The commands `trm inspect`, `recipe`, `model-summary` and `checkpoint`, and the options of `trm` itself."""

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file

from tests.cli.helpers import Run, check_error, replace_in_params
from tests.conftest import ROOT
from trm import export_published, load_checkpoint, load_params
from trm.data.parquet import read_meta
from trm.models.act import build_model
from trm.models.conversion import arch_of
from trm.studies.study import Study


def test_inspect_of_a_file_in_another_encoding(run: Run, here: Path) -> None:
    (here / "mine.csv").write_bytes("input,output\né,b\n".encode("latin-1"))
    check_error(run("inspect", "mine.csv"), "mine.csv, line 2: not valid UTF-8 (byte 0xe9); save the file as UTF-8")


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"trm {version('trm')}\n", "")


def test_completion(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TRM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "trm mod")
    monkeypatch.setenv("COMP_CWORD", "1")
    code, out, err = run()
    assert (code, out.split(), err) == (0, ["model-summary"], "")


def test_recipes(run: Run, here: Path) -> None:
    code, out, _ = run("recipe", "list")
    assert code == 0
    names = [line.split()[0] for line in out.splitlines()]
    assert {"sudoku-6x6", "sudoku-4x4", "sudoku-extreme-mlp", "sudoku-extreme-att"} <= set(names)
    recipe = run("recipe", "show", "sudoku-6x6")[1]
    assert (ROOT / "params.yaml").read_text().startswith(f"{recipe}\n# Weights & Biases (")
    check_error(run("recipe", "show", "sudoku-6x7"), "did you mean sudoku-6x6?")
    check_error(run("recipe", "use", "sudoku-4x4"), "params.yaml: has changes of your own", "--force")
    assert run("recipe", "use", "sudoku-4x4", "--force")[0] == 0
    assert run("recipe", "use", "sudoku-6x6")[0] == 0  # the file is an unchanged recipe
    assert (here / "params.yaml").read_text() == (ROOT / "params.yaml").read_text()


def test_an_ablation_is_used_like_a_recipe(run: Run, here: Path) -> None:
    assert "seven-state" in run("recipe", "list")[1]
    text = run("recipe", "show", "seven-state")[1]
    assert run("recipe", "use", "seven-state", "--force")[0] == 0
    assert (here / "params.yaml").read_text().startswith(text)
    assert run("recipe", "use", "sudoku-6x6")[0] == 0  # the file is an unchanged ablation
    check_error(run("recipe", "show", "sevenstate"), "did you mean seven-state?")


def test_model_summary(run: Run, here: Path, finished: Path) -> None:
    """Without and with a dataset, and for lengths that do not divide the sequence."""
    code, out, err = run("model-summary")
    assert (code, err) == (0, "")
    assert out.startswith("trm for sudoku 4 x 4: ")
    assert "effective depth   2 x (4 + 1) x 1 = 10 blocks" in out
    assert run("model-summary", "--dataset", finished / "outputs/dataset") == (0, out, "")
    code, out, _ = run("model-summary", "--set", "model.H_cycles=1")
    assert (code, "= 5 blocks" in out) == (0, True)
    replace_in_params(here, "enable: false, mode: clean, length: 32", "enable: true, mode: unclean, length: 33")
    words = "model.lma.length must divide 16 tokens * hidden_size 16 = 256. Got 33"
    check_error(run("model-summary"), words)
    check_error(run("train", "--dataset", finished / "outputs/dataset"), words)
    assert not (here / "outputs").exists()


def test_export_and_import(run: Run, here: Path, finished: Path) -> None:
    trained = finished / "outputs/model"
    code, out, err = run("checkpoint", "export", trained, "--format", "published", "--out", "exported")
    assert (code, err) == (0, "")
    (file,) = here.glob("exported/step_*")
    exported = str(file.relative_to(here))
    following = f"trm checkpoint import {exported}"
    assert re.fullmatch(rf"checkpoint export: {exported} in \d:\d\d\nnext: {following}\n", out)
    code, out, _ = run("checkpoint", "import", file, "--model", "imported")
    assert code == 0
    end = r"checkpoint import: imported in \d:\d\d\nnext: trm inspect imported\n"
    assert re.fullmatch(rf"  train.init_from: .* continues its training\n{end}", out)
    dataset = finished / "outputs/dataset"
    code, out, _ = run("checkpoint", "import", file, "--dataset", dataset)
    assert code == 0
    assert out.endswith(f"\nnext: trm visualize --model outputs/imported --dataset {dataset}\n")
    for folder, words in (("exported", "written by `trm checkpoint export`"), ("imported", "imported")):
        code, out, err = run("inspect", folder)
        assert (code, err) == (0, "")
        assert words in out
    original, imported = (load_file(folder / "checkpoint.safetensors") for folder in (trained, here / "imported"))
    assert original.keys() == imported.keys()
    assert all((value == imported[name]).all() for name, value in original.items() if not name.startswith("raw."))
    config = here / "exported/all_config.yaml"
    arch = YAML(typ="safe").load(config.read_text())["arch"]

    def other(**changes: object) -> tuple[int, str, str]:
        YAML().dump({"arch": {**arch, **changes}}, config)
        return run("checkpoint", "import", file, "--model", "other")

    check_error(
        other(name="x.hrm@X"), "inner.H_level.layers.0.mlp_t.gate_up_proj.weight is missing", "checkpoint of hrm"
    )
    check_error(other(name="x.urm@X"), "arch.name: 'urm' cannot be imported; only trm, trm_singlez,")
    check_error(other(vocab_size=7), "inner.embed_tokens.embedding_weight should have shape (7, 16). Got (6, 16)")
    assert not (here / "other").exists()


def test_reset_puzzle_embedding(run: Run, here: Path, finished: Path) -> None:
    """Import a checkpoint with 5 puzzle embeddings for a dataset with one, and train only that one."""
    dataset = finished / "outputs/dataset"
    for old, new in {"puzzle_emb_ndim: 0": "puzzle_emb_ndim: 16", "puzzle_emb_len: 0": "puzzle_emb_len: 1"}.items():
        replace_in_params(here, old, new)
    meta = read_meta(dataset).model_copy(update={"num_identifiers": 5})
    source = build_model(load_params("params.yaml").model, meta)
    with torch.no_grad():
        source.puzzle_table.normal_()
    torch.save(export_published(source), "published")
    YAML().dump({"arch": arch_of(source)}, Path("all_config.yaml"))
    words = ("checkpoint", "import", "published", "--dataset", dataset)
    check_error(run(*words), "arch.num_puzzle_identifiers must be 1, as in the dataset. Got 5", "--reset-puzzle-emb")
    code, out, _ = run(*words, "--reset-puzzle-emb")
    assert code == 0
    start = re.search(r"train.init_from: (\{.*\})", out)
    assert start
    replace_in_params(here, "init_from: null", f"init_from: {start[1]}")
    replace_in_params(here, "freeze_weights: false", "freeze_weights: true")
    assert run("train", "--dataset", dataset)[0] == 0
    model, _ = load_checkpoint("outputs/model")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), source.parameters(), strict=True))
    assert model.puzzle_table.shape == (1, 16)
    assert not torch.allclose(model.puzzle_table[0], source.puzzle_table.mean(0))
    replace_in_params(here, start[1][-30:-1], start[1][-30:-1].replace("false", "maybe"))
    check_error(
        run("train", "--dataset", dataset), "train.init_from.reset_puzzle_emb must be a valid boolean. Got 'maybe'"
    )


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; sys.argv = ['trm', '--help']\nfrom trm.cli.main import main\n"
    code += "try: main()\nexcept SystemExit: pass\nprint(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    heavy = {"torch", "numpy", "pyarrow", "numba", "scipy", "matplotlib", "PIL"}
    heavy |= {"httpx", "boto3", "safetensors", "ruamel.yaml", "jinja2", "rich.live"}
    assert "evaluate" in out
    assert not heavy & set(out.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("runs", "following"),
    [("{baseline: {}, no-ema: {}}", "compare my/baseline-0 my/no-ema-0"), ("{baseline: {}}", "inspect my")],
)
def test_end_of_a_study(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch, runs: str, following: str) -> None:
    def write_report(study: Study, out: Path, *_: object) -> None:
        out.mkdir()
        row = {"seeds": 1, "exact_accuracy": 0.5, "exact_accuracy_95": [0.4, 0.6], "cell_accuracy": 0.75}
        row |= {"halt_accuracy": 1.0, "loss_last": 1.0, "train_seconds": 3.0}
        (out / "report.json").write_text(json.dumps({"title": "A", "recipes": {"no-ema": row}, "failed": {}}))

    monkeypatch.setattr("trm.studies.study.run_study", write_report)
    (here / "my.yaml").write_text(f"base: sudoku-4x4\nruns: {runs}\n")
    code, out, err = run("study", "my.yaml", "--folder", ".")
    assert (code, err) == (0, "")
    assert "no-ema 1 50.0 [40.0, 60.0] 75.0 100.0" in " ".join(out.split())
    assert re.search(rf"\nstudy: my/report.md in \d:\d\d\nnext: trm {following}\n$", out)
