"""The dataset of `trm new-dataset` with the documented settings, through all stages."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT
from tests.params import params_text
from tests.preload import python
from trm.stages.content_keys import dvc_deps
from trm.stages.records import REQUIRED_STAGES, STAGES

PAGE = "docs/custom-datasets.md"
HEADING = "Datasets in code"
TINY: dict[str, Any] = {
    "augment.num_aug": 2,
    "augment.validation_groups": 5,
    "model.hidden_size": 16,
    "model.num_heads": 2,
    "model.H_cycles": 1,
    "model.L_cycles": 1,
    "train.epochs": 2,
    "train.global_batch_size": 32,
    "evaluate.max_steps": 2,
    "evaluate.num_votes": 3,
    "report.test_time_compute": None,
    "train.device": "cpu",
    "evaluate.device": "cpu",
    "report.device": "cpu",
}
IMPORTS = (
    "import json; from trm.stages.content_keys import dvc_deps, key_request; from trm.stages.records import STAGES; "
)
DEPS = f"{IMPORTS} print(json.dumps({{s.name: dvc_deps(s) for s in STAGES}}))"


class Checkout:
    """A copy of the package, in which commands run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.module = ""
        """The module that was added."""
        shutil.copytree(ROOT / "trm", folder / "trm", ignore=shutil.ignore_patterns("__pycache__"))
        self.environment = {**os.environ, "PYTHONPATH": str(folder)}

    def start(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python with these arguments."""
        command = [python(), *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, check=False, capture_output=True, text=True
        )

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run Python with these arguments; its stdout, or its stderr where an error is expected."""
        done = self.start(*arguments)
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout


def section() -> str:
    """The section of the page, without its heading."""
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    parts = re.split(rf"(?m)^#+ {HEADING}\n", text)
    assert len(parts) == 2, f"{PAGE} must have one section {HEADING}"
    return re.split(r"(?m)^#{2,3} ", parts[1])[0]


def block(language: str) -> str:
    """The section's one block of that language."""
    (found,) = re.findall(rf"(?ms)^```{language}\n(.*?)^```$", section())
    return found


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout with a new dataset, and a tiny experiment with it."""
    checkout = Checkout(tmp_path_factory.mktemp("custom") / "checkout")
    shutil.copy(ROOT / "pyproject.toml", checkout.folder)
    (checkout.folder / "tests/datasets").mkdir(parents=True)
    checkout.run("-m", "trm", "new-dataset", "sorting")
    checkout.module = "trm/datasets/sorting/dataset.py"
    section_data = "".join(f"    {line}\n" for line in block("yaml").splitlines())
    assert section_data in (checkout.folder / checkout.module).read_text(encoding="utf-8")
    data = YAML(typ="safe", pure=True).load(block("yaml"))["data"]
    text = params_text(TINY | {"data": data})
    (checkout.folder / "params.yaml").write_text(text)
    return checkout


@pytest.mark.slow
def test_all_stages_of_the_new_dataset(checkout: Checkout) -> None:
    for stage in REQUIRED_STAGES:
        checkout.run("-m", "trm", stage.name)
    outputs = checkout.folder / "outputs"
    counts = json.loads((outputs / "dataset/meta.json").read_text())["splits"]
    assert counts == {
        "train": {"groups": 995, "puzzles": 995 * 3, "examples": 995 * 3},
        "validation": {"groups": 5, "puzzles": 5, "examples": 5},
        "test": {"groups": 200, "puzzles": 200, "examples": 200},
    }
    metrics = json.loads((outputs / "evaluation/metrics.json").read_text())
    assert (metrics["puzzles"], metrics["num_votes"]) == (200, 3)
    assert metrics["valid"] == metrics["exact_accuracy"] is not None  # a row has one sorted version
    assert metrics["valid_voted"] == metrics["pass@1"]
    shown = {
        name: checkout.run("-m", "trm", "inspect", f"outputs/{name}")
        for name in (stage.output for stage in REQUIRED_STAGES)
    }
    for folder, said in shown.items():
        assert json.loads((outputs / folder / "manifest.json").read_text())["key"] in "".join(said.split())
    for folder, split in (("raw", "train"), ("raw", "test"), ("dataset", "test")):
        _, question, answer, _ = (outputs / f"raw/{split}.csv").read_text().splitlines()[1].split(",")
        assert re.search(rf"(?m)^{question} +{answer}", shown[folder])
    done = checkout.start("-m", "trm", "solve", "314159", "--num-votes", "3", "--json")
    answer = json.loads(done.stdout)
    assert answer["question"] == [[3, 1, 4, 1, 5, 9]]
    assert answer["valid"] is (answer["answer"] == [[1, 1, 3, 4, 5, 9]])
    assert done.returncode == (0 if answer["valid"] else 3)


@pytest.mark.slow
def test_the_stages_depend_on_the_module_by_key_and_not_by_name_in_dvc(checkout: Checkout) -> None:
    deps = json.loads(checkout.run("-c", DEPS))
    assert deps == {stage.name: dvc_deps(stage) for stage in STAGES}  # so dvc.yaml is as it was
    assert "trm/datasets" in deps["augment"]
    code = f"{IMPORTS} from trm.stages.params import load_params; p = load_params('params.yaml'); "
    code += "print(json.dumps([key_request(s, dict(p), p.data.name, {})['modules'] for s in STAGES]))"
    modules = json.loads(checkout.run("-c", code))
    uses = {stage.name for stage, files in zip(STAGES, modules, strict=True) if checkout.module in files}
    assert uses == {"fetch", "augment", "evaluate", "report", "export"}


@pytest.mark.slow
def test_its_rule_is_checked(checkout: Checkout, tmp_path: Path) -> None:
    """What the module says is wrong with a row reaches the user in one line."""
    checkout.run("-m", "trm", "fetch", "--raw", str(tmp_path / "raw"))
    code = "import sys; from trm.datasets.sorting.dataset import layout; from trm.data.puzzle_csv import read_puzzles; "
    code += "print(sum(len(part) for part in read_puzzles(sys.argv[1], layout(6))))"
    file = tmp_path / "raw/test.csv"
    assert checkout.run("-c", code, str(file)) == "200\n"
    lines = file.read_text().splitlines()
    source, question, answer, rating = lines[3].split(",")
    lines[3] = ",".join([source, question, answer[::-1], rating])
    file.write_text("\n".join(lines) + "\n")
    said = checkout.run("-c", code, str(file), code=1).splitlines()[-1]
    assert "line 4: the answer is not the question sorted; correct or remove the row" in said


@pytest.mark.slow
def test_too_many_puzzles(checkout: Checkout, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(params_text({"data.length": 2}, (checkout.folder / "params.yaml").read_text()))
    said = checkout.run("-m", "trm", "fetch", "--params", str(other), "--raw", str(tmp_path / "raw"), code=2)
    assert said == "trm: data.length must be greater for 1200 different puzzles. Got 2\n"
    assert [path.name for path in tmp_path.iterdir()] == ["other.yaml"]
