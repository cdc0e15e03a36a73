"""The command line as its user meets it: every mistake is exit code 2, one line, and nothing left behind."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, SOLUTION
from trm.cli import main as cli
from trm.stages.records import STAGES
from trm.storage.artifacts import MANIFEST

Run = Callable[..., tuple[int, str, str]]
TINY = {
    "size: 6": "size: 4",
    "train_puzzles: 1000": "train_puzzles: 30",
    "test_puzzles: 500": "test_puzzles: 10",
    "allow_leakage: false": "allow_leakage: true",
    r"num_aug: \d+": "num_aug: 2",
    r"validation_groups: \d+": "validation_groups: 5",
    r"hidden_size: \d+": "hidden_size: 16",
    r"num_heads: \d+": "num_heads: 2",
    r"epochs: \d+": "epochs: 4",
    r"global_batch_size: \d+": "global_batch_size: 10",
    "device: auto": "device: cpu",
    "gallery: 12": "gallery: 2",
    r"curve:\n(?:    .*\n)+": "curve: null\n",  # tests/report has it
}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run `trm` with some arguments: (exit code, stdout, stderr)."""
    signals = {number: cli.signal.getsignal(number) for number in (cli.signal.SIGTERM, cli.signal.SIGINT)}

    def command(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["trm", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    yield command
    for number, handler in signals.items():
        cli.signal.signal(number, handler)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with the params of a tiny experiment."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    text = (ROOT / "params.yaml").read_text()
    for old, new in TINY.items():
        text, count = re.subn(old, new, text)
        assert count, f"params.yaml should have {old}"
    (folder / "params.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of a tiny experiment, made by the five commands."""
    folder = tmp_path_factory.mktemp("finished")
    text = (ROOT / "params.yaml").read_text()
    for old, new in TINY.items():
        text = re.sub(old, new, text)
    (folder / "params.yaml").write_text(text)
    environment = {**os.environ, "TRM_STATE_DIR": str(folder / "states"), "PYTHONPATH": str(ROOT)}
    for stage in STAGES:
        subprocess.run(
            [sys.executable, "-m", "trm", stage.name], cwd=folder, env=environment, check=True, capture_output=True
        )
    return folder


def _mistake(result: tuple[int, str, str], *words: str) -> None:
    code, out, err = result
    assert code == 2, err
    assert out == ""
    *progress, said = err.splitlines()
    assert said.startswith("trm: "), f"one line: {err}"
    assert all(" done in " in line for line in progress), f"one line: {err}"
    for word in words:
        assert word in err, err


def _edit(here: Path, old: str, new: str) -> None:
    text = (here / "params.yaml").read_text()
    changed, count = re.subn(old, new, text, count=1)
    assert count == 1, old
    (here / "params.yaml").write_text(changed)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (r"  lr: ", "  lrr: ", ("train.lr is missing",)),
        (r"(  lr: .*)\n", r"\1\n  lrr: 3\n", ("train.lrr is not a setting", "did you mean lr?")),
        (r"  epochs: \d+", "  epochs: many", ("train.epochs must be a valid integer. Got 'many'",)),
        (r"  epochs: \d+", "  epochs: 2.5", ("train.epochs", "2.5")),
        (r"  epochs: \d+", "  epochs: 0", ("train.epochs must be greater than or equal to 1. Got 0",)),
        (r"  mlp_t: true", "  mlp_t: 1", ("model.mlp_t must be a valid boolean. Got 1",)),
        (r"  lr: .*", "  lr: '1e-3'", ("train.lr must be a valid number. Got '1e-3'",)),
        (r"arch: trm", "arch: urm", ("model.arch must be 'trm', 'trm_singlez',", "'transformers_baseline'. Got 'urm'")),
        (r"arch: trm", "familiy: trm", ("model.arch is missing",)),
        (
            r"enable: false, mode: clean",
            "enable: true, mode: clean",
            ("lma.length must divide hidden_size", "Got", "32"),
        ),
        (r"freeze_weights: false", "freeze_weights: true", ("start must name a trained model", "Got null")),
        (r"hidden_size: 16", "hidden_size: 17", ("hidden_size must be a multiple of num_heads", "17")),
        (r"size: 4", "size: 5", ("data.size must be 4, 6 or 9. Got 5",)),
        (
            r"type: generate",
            "type: generated",
            ("data.source.type must be one of generate, path, url, huggingface. Got 'generated'",),
        ),
        (r"clues: minimal", "clues: 17", ("source.clues must be at most size*size = 16. Got 17",)),
        (r"clues: minimal", "clues: 3", ("data.source.clues", "fewer than 4 clues", "Got 3")),
        (r"(?m)^data:", "data: [", ("not valid YAML", "line")),
    ],
)
def test_params_mistakes(run: Run, here: Path, old: str, new: str, words: tuple[str, ...]) -> None:
    _edit(here, old, new)
    _mistake(run("fetch"), "params.yaml" if "clues: 3" not in new else "clues", *words)
    assert [path.name for path in here.iterdir()] == ["params.yaml"]


def test_missing_params_file(run: Run, here: Path) -> None:
    _mistake(run("train", "--params", "other.yaml"), "other.yaml: no such file", "trm recipe use")


def test_exponents_are_numbers(here: Path) -> None:
    from trm.stages.params import load_params

    for text in ("1e-4", "1.0e-4", "0.0001"):
        _edit(here, r"  lr: .*", f"  lr: {text}")
        assert load_params(here / "params.yaml").train.lr == 1e-4


def _csv(rows: list[str], header: str = "source,question,answer,rating") -> str:
    return "\n".join([header, *rows]) + "\n"


GOOD = f"made,{'.' * 4}{SOLUTION[4:]},{SOLUTION},0"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (_csv([GOOD, GOOD[:30]]), ("line 3",)),
        (_csv([GOOD, f"made,{SOLUTION},{SOLUTION[::-1][:-1]}9,0"]), ("line 3", "answer")),
        (_csv([f"made,{'.' * 16},{'1' * 16},0"]), ("line 2", "answer")),
        (_csv([f"made,2{'.' * 15},{SOLUTION},0"]), ("line 2", "clue")),
        (_csv([GOOD], header="source,question,answer"), ("train.csv",)),
        ("", ("train.csv",)),
        ("\x00\xff\x00", ("train.csv",)),
    ],
)
def test_bad_csv(run: Run, here: Path, text: str, words: tuple[str, ...]) -> None:
    (here / "train.csv").write_bytes(text.encode("latin-1"))
    (here / "test.csv").write_text(_csv([GOOD]))
    _use_paths(here)
    _mistake(run("fetch"), *words)
    assert sorted(path.name for path in here.iterdir()) == ["params.yaml", "test.csv", "train.csv"]


def _use_paths(here: Path, sha256: str = "null", kind: str = "path", train: str = "train.csv") -> None:
    text = (here / "params.yaml").read_text()
    rest = "test_sha256: null, min_rating: null, subsample: null, seed: 0"
    source = f"source: {{type: {kind}, train: '{train}', test: '{train}', train_sha256: {sha256}, {rest}}}"
    changed, count = re.subn(r"source:\n(    .*\n)+", source + "\n", text)
    assert count == 1
    (here / "params.yaml").write_text(changed)


def test_wrong_checksum(run: Run, here: Path) -> None:
    (here / "train.csv").write_text(_csv([GOOD]))
    _use_paths(here, sha256="ab" * 32)
    _mistake(run("fetch"), "data.source.train_sha256", "ab" * 32, "train.csv")
    assert not (here / "outputs").exists()


def test_missing_source(run: Run, here: Path) -> None:
    _use_paths(here)
    _mistake(run("fetch"), "data.source.train", "train.csv")
    assert not (here / "outputs").exists()


@pytest.mark.slow
def test_no_network(run: Run, here: Path) -> None:
    _use_paths(here, kind="url", train="http://127.0.0.1:9/train.csv")  # nobody listens on the discard port
    _mistake(run("fetch"), "127.0.0.1:9")
    assert not (here / "outputs").exists()


@pytest.mark.parametrize("stage", ["augment", "train", "evaluate", "report"])
def test_missing_input(run: Run, here: Path, stage: str) -> None:
    _mistake(run(stage), "holds no manifest.json", "dvc repro")
    assert not (here / "outputs").exists()


def test_wrong_kind_of_input(run: Run, here: Path, finished: Path) -> None:
    _mistake(run("train", "--dataset", finished / "outputs/raw"), "was written by stage fetch")
    assert not (here / "outputs").exists()


@pytest.mark.parametrize(
    ("stage", "folder", "file"),
    [
        ("augment", "raw", "train.csv"),
        ("train", "dataset", "train/examples.parquet"),
        ("evaluate", "model", "checkpoint.safetensors"),
        ("report", "evaluation", "predictions.parquet"),
    ],
)
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_damaged_input(run: Run, here: Path, finished: Path, stage: str, folder: str, file: str, damage: str) -> None:
    import shutil

    shutil.copytree(finished / "outputs", here / "outputs")
    shutil.rmtree(here / "outputs/report")
    path = here / "outputs" / folder / file
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        content[len(content) // 2] ^= 255
        path.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*")}
    _mistake(run(stage), file, "delete", "dvc repro")
    assert {path: path.stat().st_mtime_ns for path in here.rglob("*")} == before


@pytest.mark.parametrize("damage", ["cut", "nonsense", "gone"])
def test_damaged_checkpoint_file(run: Run, finished: Path, tmp_path: Path, damage: str) -> None:
    """A checkpoint without a manifest, as a person may pass one around."""
    content = (finished / "outputs/model/checkpoint.safetensors").read_bytes()
    file = tmp_path / "shared.safetensors"
    if damage != "gone":
        file.write_bytes(content[: len(content) // 2] if damage == "cut" else b"nonsense")
    _mistake(run("solve", "." * 16, "--model", file), str(file))


def test_output_that_no_stage_wrote_is_left_alone(run: Run, here: Path) -> None:
    (here / "mine").mkdir()
    (here / "mine/thesis.tex").write_text("precious")
    _mistake(run("fetch", "--raw", "mine"), "mine: exists and was not written by a stage")
    assert (here / "mine/thesis.tex").read_text() == "precious"


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="a small file system needs Linux and root")
@pytest.mark.parametrize(
    ("stage", "size"), [("fetch", "4k"), ("augment", "8k"), ("train", "64k"), ("evaluate", "8k"), ("report", "32k")]
)
def test_full_disk(
    run: Run, here: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, stage: str, size: str
) -> None:
    small = here / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes=64", "tmpfs", small], check=True)
    monkeypatch.setenv("TRM_STATE_DIR", str(here / "states"))
    try:
        record = next(each for each in STAGES if each.name == stage)
        flags = [f"--{name}={finished / 'outputs' / name}" for name in record.inputs]
        _mistake(run(stage, *flags, f"--{record.output}={small / 'out'}"), "no space left", "free some")
        assert not list(small.iterdir())
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_mistakes_in_a_curve(run: Run, here: Path, finished: Path) -> None:
    folders = ("curve", finished / "outputs/model", "--dataset", finished / "outputs/dataset")
    _mistake(run(*folders, "--max-steps", "0,4"), "trm curve: curve.steps", "Got 0")
    _mistake(run(*folders, "--num-votes", "two"), "trm curve: curve.votes", "'two'")
    _mistake(run(*folders, "--num-samples", "1"), "rollouts above 1 need a noise")
    _mistake(run(*folders, "--device", "abacus"), "trm curve: device must be", "'abacus'")
    assert not (here / "outputs").exists()


def test_a_finished_experiment(run: Run, finished: Path) -> None:
    outputs = finished / "outputs"
    metrics = json.loads((outputs / "evaluation/metrics.json").read_text())
    assert metrics["puzzles"] == 10
    assert 0 <= metrics["exact_accuracy"] <= metrics["cell_accuracy"] <= 1
    for folder in (stage.output for stage in STAGES):
        manifest = json.loads((outputs / folder / MANIFEST).read_text())
        timing = json.loads((outputs / f"{folder}.timing.json").read_text())
        assert timing["key"] == manifest["key"]
        assert "seconds" not in json.dumps(manifest)
        code, out, _ = run("inspect", outputs / folder)
        assert code == 0
        assert manifest["key"] in "".join(out.split())
    assert not [path for path in outputs.iterdir() if path.name.startswith(".")]


def test_keys_are_known_before_anything_runs(finished: Path) -> None:
    from trm.stages.content_keys import content_keys
    from trm.stages.params import load_params
    from trm.stages.records import STAGES

    keys = content_keys(load_params(finished / "params.yaml"))
    for stage in STAGES:
        manifest = json.loads((finished / "outputs" / stage.output / MANIFEST).read_text())
        assert manifest["key"] == keys[stage.name]


def test_solve(run: Run, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = finished / "outputs/model"
    puzzle = "1..." + "." * 12
    code, out, err = run("solve", puzzle, "--model", model)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 6  # four rows, a rule between the bands, the verdict
    code, out, _ = run("watch", puzzle, "--model", model, "--max-steps", 2)
    assert (code, out.count("step 2, "), out.count("halt logit")) == (0, 1, 2)
    code, out, _ = run("solve", puzzle, "--model", model, "--json", "--num-votes", 3)
    answer = json.loads(out)
    assert answer["question"][0] == [1, 0, 0, 0]
    assert answer["of"] == 3
    file = tmp_path / "puzzle.txt"
    file.write_text("1 . . .\n. . . .\n. . . .\n. . . .\n")
    assert json.loads(run("solve", file, "--model", model, "--json")[1])["question"] == answer["question"]
    with file.open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        again = run("solve", "-", "--model", model, "--json")[1]
    assert json.loads(again)["question"] == answer["question"]


def test_watch_has_the_dials_of_solve(run: Run, finished: Path, tmp_path: Path) -> None:
    hard = "6......3.26.2.4......5...6..5....3.."  # of it the model that ships is not sure
    asked = (hard, "--model", ROOT / "trm/inference/demo_model", "--max-steps", 5, "--seed", 5)
    for dials in (
        ["--num-votes", 3],
        ["--num-votes", 2, "--num-samples", 3, "--latent-noise-std", 0.5],
        ["--num-samples", 2, "--latent-noise-std", 0.5, "--verify", "--early-halting"],
    ):
        _, solved, _ = run("solve", *asked, *dials)
        code, watched, err = run("watch", *asked, *dials)
        assert (code, err) == (0, "")
        pattern = r"the model is \S+% sure.*"
        assert re.findall(pattern, watched) == re.findall(pattern, solved) != []
    file = tmp_path / "a.gif"
    test_puzzle = ("--model", finished / "outputs/model", "--dataset", finished / "outputs/dataset", "--test", 3)
    assert run("watch", *test_puzzle, "--save", file)[0] == 0
    assert file.read_bytes().startswith(b"GIF89a")


@pytest.mark.parametrize("command", ["watch", "demo"])
def test_watch_mistakes(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """They show before anything runs: there is not even a model to watch."""
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "0")  # demo would turn it off, here for all tests
    _mistake(run(command, "--save", "none/a.gif"), "none/a.gif: the folder none does not exist")
    _mistake(run(command, "--save", "a.png"), "a.png: --save writes a GIF")
    _mistake(run(command, "--num-samples", 2), "rollouts above 1 need noise above 0", "Got 2 and 0.0")
    assert [path.name for path in here.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(
    ("puzzle", "words"),
    [
        ("1...", ("must have 16 cells (4 x 4)", "Got 4")),
        ("7" + "." * 15, ("cell 1", "Got '7'")),
        ("nosuch/puzzle.txt", ("no such file",)),
    ],
)
def test_solve_mistakes(run: Run, finished: Path, puzzle: str, words: tuple[str, ...]) -> None:
    _mistake(run("solve", puzzle, "--model", finished / "outputs/model"), *words)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("arc", "ARC tasks cannot be solved outside the dataset"),
        ("tokens", "trm: the model's data set is not known, for it was imported without one; import it again with"),
    ],
)
def test_a_model_that_cannot_be_asked(
    run: Run, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    from safetensors.torch import load_file

    from trm.training.checkpoint import read_header, write_tensors

    trained, file = finished / "outputs/model/checkpoint.safetensors", tmp_path / "other.safetensors"
    header = read_header(trained)
    write_tensors(file, load_file(trained), header | {"meta": header["meta"] | {"name": name}})
    monkeypatch.setattr(sys, "stdin", None)  # nothing is read
    for puzzle in ("000", "-", "nosuch.txt"):
        _mistake(run("solve", puzzle, "--model", file), words)


def test_inspect_of_a_file_in_another_encoding(run: Run, here: Path) -> None:
    (here / "mine.csv").write_bytes("input,output\né,b\n".encode("latin-1"))
    _mistake(run("inspect", "mine.csv"), "mine.csv: not valid UTF-8; save the file as UTF-8")


def test_solve_without_a_model(run: Run, here: Path) -> None:
    _mistake(run("solve", "." * 16), "outputs/model", "train a model first")


def test_recipes(run: Run, here: Path) -> None:
    code, out, _ = run("recipe", "list")
    assert code == 0
    names = [line.split()[0] for line in out.splitlines()]
    assert {"sudoku-6x6", "sudoku-4x4", "sudoku-extreme-mlp", "sudoku-extreme-att"} <= set(names)
    recipe = run("recipe", "show", "sudoku-6x6")[1]
    assert (ROOT / "params.yaml").read_text().startswith(f"{recipe}\n# What Weights & Biases")
    _mistake(run("recipe", "show", "sudoku-6x7"), "did you mean sudoku-6x6?")
    _mistake(run("recipe", "use", "sudoku-4x4"), "params.yaml: has changes of your own", "--force")
    assert run("recipe", "use", "sudoku-4x4", "--force")[0] == 0
    assert run("recipe", "use", "sudoku-6x6")[0] == 0  # nothing of one's own is lost
    assert (here / "params.yaml").read_text() == (ROOT / "params.yaml").read_text()


def test_model(run: Run, here: Path, finished: Path) -> None:
    """Before there are data, and with them; and lengths that the sequence does not have."""
    code, out, err = run("model")
    assert (code, err) == (0, "")
    assert out.startswith("trm for sudoku 4 x 4: ")
    assert "effective depth  2 x (4 + 1) x 1 = 10 blocks" in out
    assert run("model", "--dataset", finished / "outputs/dataset") == (0, out, "")
    _edit(here, "enable: false, mode: clean, length: 32", "enable: true, mode: unclean, length: 33")
    words = "model.lma.length must divide 16 tokens * hidden_size 16 = 256. Got 33"
    _mistake(run("model"), words)
    _mistake(run("train", "--dataset", finished / "outputs/dataset"), words)
    assert not (here / "outputs").exists()


def test_checkpoints_go_out_and_come_back(run: Run, here: Path, finished: Path) -> None:
    from ruamel.yaml import YAML
    from safetensors.torch import load_file

    trained = finished / "outputs/model"
    code, out, err = run("checkpoint", "export", trained, "--format", "published", "--out", "sent")
    assert (code, err) == (0, "")
    (file,) = here.glob("sent/step_*")
    assert str(file.relative_to(here)) in out
    assert run("checkpoint", "import", file, "--model", "back")[0] == 0
    theirs, ours = (load_file(folder / "checkpoint.safetensors") for folder in (trained, here / "back"))
    assert theirs.keys() == ours.keys()
    assert all((value == ours[name]).all() for name, value in theirs.items() if not name.startswith("raw."))
    config = here / "sent/all_config.yaml"
    arch = YAML(typ="safe").load(config.read_text())["arch"]

    def other(**changes: object) -> tuple[int, str, str]:
        YAML().dump({"arch": {**arch, **changes}}, config)
        return run("checkpoint", "import", file, "--model", "other")

    _mistake(other(name="x.hrm@X"), "inner.H_level.layers.0.mlp_t.gate_up_proj.weight is missing", "checkpoint of hrm")
    _mistake(other(name="x.urm@X"), "arch.name: 'urm' cannot be imported; only trm, trm_singlez,")
    _mistake(other(vocab_size=7), "inner.embed_tokens.embedding_weight should have shape (7, 16). Got (6, 16)")
    assert not (here / "other").exists()


def test_a_new_puzzle_table(run: Run, here: Path, finished: Path) -> None:
    """A published checkpoint of 5 puzzles for a data set of one, whose vector alone is then trained."""
    import torch
    from ruamel.yaml import YAML

    from trm import export_published, load_checkpoint, load_params
    from trm.data.parquet import read_meta
    from trm.models.act import build_model
    from trm.models.conversion import arch_of

    dataset = finished / "outputs/dataset"
    for old, new in {"puzzle_emb_ndim: 0": "puzzle_emb_ndim: 16", "puzzle_emb_len: 0": "puzzle_emb_len: 1"}.items():
        _edit(here, old, new)
    meta = read_meta(dataset).model_copy(update={"num_identifiers": 5})
    source = build_model(load_params("params.yaml").model, meta)
    with torch.no_grad():
        source.puzzle_table.normal_()
    torch.save(export_published(source), "published")
    YAML().dump({"arch": arch_of(source)}, Path("all_config.yaml"))
    words = ("checkpoint", "import", "published", "--dataset", dataset)
    _mistake(run(*words), "arch.num_puzzle_identifiers must be 1, as in the data set. Got 5", "--reset-puzzle-emb")
    code, out, _ = run(*words, "--reset-puzzle-emb")
    assert code == 0
    start = re.search(r"train.init_from: (\{.*\})", out)
    assert start
    _edit(here, "start: null", f"start: {start[1]}")
    _edit(here, "freeze_weights: false", "freeze_weights: true")
    assert run("train", "--dataset", dataset)[0] == 0
    model, _ = load_checkpoint("outputs/model")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), source.parameters(), strict=True))
    assert model.puzzle_table.shape == (1, 16)
    assert not torch.allclose(model.puzzle_table[0], source.puzzle_table.mean(0))
    _edit(here, start[1][-30:-1], start[1][-30:-1].replace("false", "maybe"))
    _mistake(run("train", "--dataset", dataset), "train.init_from.reset_puzzle_emb must be a valid boolean. Got 'maybe'")


def test_an_ablation_is_used_like_a_recipe(run: Run, here: Path) -> None:
    assert "seven-state" in run("recipe", "list")[1]
    text = run("recipe", "show", "seven-state")[1]
    assert run("recipe", "use", "seven-state", "--force")[0] == 0
    assert (here / "params.yaml").read_text().startswith(text)
    assert run("recipe", "use", "sudoku-6x6")[0] == 0  # nothing of one's own is lost
    _mistake(run("recipe", "show", "sevenstate"), "did you mean seven-state?")


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; sys.argv = ['trm', '--help']\nfrom trm.cli.main import main\ntry: main()\nexcept SystemExit: pass\n"
    code += "print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    heavy = {"torch", "numpy", "pyarrow", "numba", "scipy", "pydantic", "httpx", "safetensors"}
    assert "evaluate" in out
    assert not heavy & set(out.splitlines()[-1].split())
