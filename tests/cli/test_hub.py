"""Models on the Hugging Face Hub: `trm hub push` and `pull`, and hf:// wherever a model is expected."""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.helpers import Run, check_error
from tests.conftest import ROOT
from tests.hub import TOKEN, HubServer, hub_server
from tests.preload import python
from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.evaluation.metrics import proportion
from trm.models.act import build_model
from trm.storage.artifacts import read_manifest, write_json, write_manifest
from trm.training.checkpoint import FILE, save_checkpoint
from trm.training.import_export import export_checkpoint

Program = Callable[..., subprocess.CompletedProcess[str]]
KEY, DATASET_KEY = "a" * 64, "b" * 64


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with hub_server() as server:
        yield server


@pytest.fixture
def trm(here: Path, hub: HubServer) -> Program:
    """Runs `trm` in a process of its own: huggingface_hub reads the environment when it is imported."""

    def run(*arguments: object, token: str = TOKEN, endpoint: str = hub.url) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": endpoint, "HF_HOME": str(here / "hf")}
        environment |= {"HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
        command = [python(), "-m", "trm", *map(str, arguments)]
        return subprocess.run(command, cwd=here, env=environment, check=False, capture_output=True, text=True)

    return run


@pytest.fixture
def experiment(here: Path, model_params: ModelParams, meta: DatasetMeta) -> Path:
    """A folder with a model, its dataset (only the manifest) and its evaluation."""
    folder = here / "made"
    for name in ("model", "dataset", "evaluation"):
        (folder / name).mkdir(parents=True)
    model = build_model(model_params, meta)
    save_checkpoint(folder / "model" / FILE, model, model, {"step": 7})
    (folder / "model/train.tsv").write_text("step\n7\n")
    params = {"model": model_params.model_dump(mode="json"), "train": {"lr": 0.001}}
    facts = {"stage": "train", "key": KEY, "inputs": {"dataset": DATASET_KEY}, "params": params}
    write_manifest(folder / "model", {**facts, "facts": {"parameters": 1234}, "versions": {"torch": "2.13.0"}})
    source = {"type": "path", "train": "/home/someone/secret/train.csv", "test": "test.csv"}
    data = {"data": {"name": "sudoku", "source": source}, "augment": {"num_aug": 3}}
    write_manifest(folder / "dataset", {"stage": "augment", "key": DATASET_KEY, "params": data})
    estimate = proportion(30, 40)
    metrics = {"exact_accuracy": estimate["value"], "pass@1": None, "puzzles": 40}
    write_json(
        folder / "evaluation/metrics.json",
        {**metrics, "interval_95": {"exact_accuracy": [estimate["low"], estimate["high"]]}},
    )
    write_manifest(
        folder / "evaluation",
        {"stage": "evaluate", "inputs": {"model": KEY}, "params": {"evaluate": {"num_votes": 4}}},
    )
    return folder


def folders(experiment: Path) -> list[object]:
    return [word for name in ("model", "evaluation", "dataset") for word in (f"--{name}", experiment / name)]


@pytest.mark.slow
def test_push_solve_and_pull(trm: Program, hub: HubServer, experiment: Path, here: Path) -> None:
    pushed = trm("hub", "push", "me/six", *folders(experiment))
    assert (pushed.returncode, pushed.stderr) == (0, "")
    assert f"hub push: {hub.url}/me/six in" in pushed.stdout
    assert hub.private == {"me/six": True}
    files = hub.repositories["me/six"]
    assert set(files) == {"README.md", FILE, "manifest.json", "metrics.json", "train.tsv"}
    assert files[FILE] == (experiment / "model" / FILE).read_bytes()
    solved = trm("solve", "1" + "." * 15, "--model", "hf://me/six", "--max-steps", 1)
    assert solved.returncode in (0, 3), solved.stderr
    assert "halt probability" in solved.stdout
    pulled = trm("hub", "pull", "me/six")
    assert pulled.returncode == 0, pulled.stderr
    assert read_manifest(here / "outputs/pulled")["key"] == KEY
    assert (here / "outputs/pulled/README.md").read_bytes() == files["README.md"]
    assert trm("inspect", here / "outputs/pulled").returncode == 0


def test_model_card(run: Run, experiment: Path, here: Path) -> None:
    notes = "Puzzles of a newspaper, with permission."
    code, _, err = run(
        "hub", "push", "me/six", *folders(experiment), "--card", "card.md", "--license", "mit", "--notes", notes
    )
    assert code == 0, err
    card = (here / "card.md").read_text()
    assert card.startswith("---\nlibrary_name: trm\nlicense: mit\ntags:\n- trm\n- puzzles\n- sudoku\n---\n\n# six\n")
    assert "| `exact_accuracy` | 75.0 % | 59.8 - 85.8 |" in card
    assert "40 test puzzles, with these settings: num_votes: 4." in card
    assert "pass@1" not in card  # not defined
    assert notes in card
    assert "train: train.csv" in card
    assert "someone" not in card  # folders of the machine
    assert f"| model | `{KEY}` |\n| dataset | `{DATASET_KEY}` |" in card
    assert 'trm.load_checkpoint("hf://me/six")' in card
    assert re.search(r"(?m)^  lr: 0\.001$", card)


def test_results_of_other_models_are_refused(run: Run, experiment: Path) -> None:
    model = ("--model", experiment / "model")
    for name, words in {"evaluation": "is the evaluation of another model", "dataset": "is not the dataset"}.items():
        manifest = json.loads((experiment / name / "manifest.json").read_text())
        facts = {key: value for key, value in manifest.items() if key not in ("files", "manifest_sha256")}
        facts |= {"inputs": {"model": "c" * 64}, "key": "c" * 64}
        (experiment / name / "manifest.json").unlink()
        write_manifest(experiment / name, facts)
        check_error(run("hub", "push", "me/six", *model, f"--{name}", experiment / name, "--card", "x.md"), words)
    check_error(run("hub", "push", "six", *model), "hf://six: not a model on the Hub")
    check_error(run("hub", "push", "../../me", *model), "not a model on the Hub")


@pytest.mark.slow
def test_damaged_download(trm: Program, hub: HubServer, experiment: Path, here: Path) -> None:
    """A file that differs from its digest in the manifest is not used."""
    assert trm("hub", "push", "me/six", *folders(experiment)).returncode == 0
    content = bytearray(hub.repositories["me/six"][FILE])
    content[-1] ^= 1
    hub.repositories["me/six"][FILE] = bytes(content)
    for arguments in (("inspect", "hf://me/six"), ("hub", "pull", "me/six")):
        result = trm(*arguments)
        assert (result.returncode, result.stdout) == (2, "")
        assert FILE in result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert not (here / "outputs").exists()


@pytest.mark.slow
def test_published_checkpoint_of_others(
    trm: Program, hub: HubServer, experiment: Path, here: Path, tmp_path: Path
) -> None:
    file = export_checkpoint(experiment / "model", tmp_path / "published")
    files = {path.name: path.read_bytes() for path in file.parent.iterdir() if path.name != "manifest.json"}
    hub.repositories["other/model"] = files | {"code.py": b"print('not downloaded')"}
    pulled = trm("hub", "pull", "other/model", "--model", "theirs")
    assert pulled.returncode == 0, pulled.stderr
    assert "next: trm checkpoint import theirs/FILE" in pulled.stdout
    assert {path.name for path in (here / "theirs").iterdir()} == set(files)
    result = trm("inspect", "hf://other/model")
    assert result.returncode == 2
    assert "`trm hub pull` downloads checkpoints of other programs" in result.stderr


@pytest.mark.parametrize(
    ("repo", "changes", "code", "words"),
    [
        ("me/missing", {}, 2, "hf://me/missing: no such repository, or no access"),
        ("me/six@v7", {}, 2, "hf://me/six@v7: request rejected (404"),
        ("me/six", {"endpoint": "http://127.0.0.1:9"}, 1, "the Hub cannot be reached"),
        ("me/six/x", {}, 2, "hf://me/six/x: not a model on the Hub; write it as hf://owner/name"),
    ],
)
def test_errors_have_one_line(
    trm: Program, hub: HubServer, here: Path, repo: str, changes: dict[str, str], code: int, words: str
) -> None:
    hub.repositories["me/six"] = {}
    result = trm("solve", "1", "--model", f"hf://{repo}", **changes)
    assert (result.returncode, result.stdout) == (code, ""), result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert words in result.stderr
    assert not (here / "outputs").exists()


def test_no_right_to_write(trm: Program, hub: HubServer, experiment: Path) -> None:
    result = trm("hub", "push", "me/six", *folders(experiment), token="hf_other")
    assert result.returncode == 2, result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert "HF_TOKEN" in result.stderr
    assert "hf_other" not in result.stderr
    assert hub.repositories == {}
