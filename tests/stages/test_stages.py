"""Stage records, dvc.yaml and the command line agree; content keys and DVC dependencies are complete."""

import ast
import subprocess
import sys

import pytest
import typer
from ruamel.yaml import YAML

from tests.conftest import ROOT
from trm.cli.main import app
from trm.config.params import Params
from trm.data.protocol import Dataset
from trm.datasets.registry import dataset_module, dataset_names
from trm.stages.content_keys import content_keys, dvc_deps, is_excluded, key_request, module_digests
from trm.stages.params import load_params
from trm.stages.records import STAGES, Stage

DVC = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())
all_stages = pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)


def test_same_stages() -> None:
    assert list(DVC["stages"]) == [stage.name for stage in STAGES]
    assert {section for stage in STAGES for section in stage.sections} == set(Params.model_fields) - {
        "cluster",
        "tracking",
    }


@all_stages
def test_dvc_yaml_is_the_record(stage: Stage) -> None:
    folders = (*stage.inputs, stage.output)
    flags = "".join(f" --{name} outputs/{name}" for name in folders)
    entry = DVC["stages"][stage.name]
    if stage.enabled_by:
        assert entry.keys() == {"foreach", "do"}
        assert entry["foreach"] == f"${{{stage.enabled_by}}}"
        entry = entry["do"]
    assert entry == {
        "cmd": f"python -m trm {stage.name} --params params.yaml{flags}",
        "deps": [f"outputs/{name}" for name in stage.inputs] + dvc_deps(stage),
        "params": list(stage.sections),
        "outs": [f"outputs/{stage.output}"],
    }


@all_stages
def test_command_line_is_the_record(stage: Stage) -> None:
    command = typer.main.get_command(app).commands[stage.name]  # pyright: ignore[reportAttributeAccessIssue]
    options = {option.opts[0]: option.default for option in command.params}
    folders = {f"--{name}": f"outputs/{name}" for name in (*stage.inputs, stage.output)}
    if stage.enabled_by:  # `trm export` without --params exports any model
        given = {**folders, "--params": None, "--set": None, "--dataset": None}
        assert given.items() <= options.items()
        return
    assert options == {"--params": "params.yaml", "--set": None} | folders


@all_stages
def test_deps_contain_all_imported_modules(stage: Stage) -> None:
    """The static search finds every module of the package that importing the stage's module loads."""
    code = f"import sys, {stage.module}; print(*(name for name in sys.modules if name.split('.')[0] == 'trm'))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    counted = (name for name in loaded.split() if name.count(".") and not is_excluded(name))
    files = {f"{name.replace('.', '/')}.py" for name in counted}
    packages = {file for file in files if (ROOT / file).with_suffix("").is_dir()}
    assert files - packages <= set(module_digests(stage.module))
    assert all(any(file.startswith(dep) for dep in dvc_deps(stage)) for file in files - packages)


def test_package_inits_contain_only_docstrings() -> None:
    for path in (ROOT / "trm").rglob("*/__init__.py"):
        statements = ast.parse(path.read_text()).body
        assert [type(statement) for statement in statements] == [ast.Expr], f"{path} must contain only a docstring"


def test_content_keys_depend_on_the_sections_of_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_params(ROOT / "params.yaml")
    keys = content_keys(params)
    assert keys == content_keys(params)

    def changed(section: str, **values: object) -> set[str]:
        part = getattr(params, section).model_copy(update=values)
        other = content_keys(params.model_copy(update={section: part}))
        return {name for name in keys if keys[name] != other[name]}

    assert changed("augment", seed=77) == {"augment", "train", "evaluate", "report"}
    assert changed("train", lr=0.5) == {"train", "evaluate", "report"}
    assert changed("train", max_seconds=60.0, max_stall_seconds=60.0) == set()
    assert changed("evaluate", num_votes=99) == {"evaluate", "report"}
    assert changed("report", num_examples=3) == {"report"}
    assert changed("data", allow_leakage=True) == set(keys)
    assert changed("export", max_steps=3) == set()
    keys = content_keys(params.model_copy(update={"export": params.export.model_copy(update={"weights": ("ema",)})}))
    assert changed("export", weights=("ema",), max_steps=3) == {"export"}


def test_content_key_covers_only_the_selected_dataset() -> None:
    augment = next(stage for stage in STAGES if stage.name == "augment")
    params = load_params(ROOT / "params.yaml")
    sections = {"data": params.data, "augment": params.augment}
    modules = key_request(augment, sections, "sudoku", {})["modules"]
    own = {"trm/datasets/sudoku/dataset.py", "trm/datasets/sudoku/augmentation.py", "trm/data/parquet.py"}
    assert own <= set(modules)
    assert not [name for name in modules if name.startswith("trm/datasets/maze")]


def test_a_changed_report_does_not_retrain() -> None:
    deps = {stage.name: dvc_deps(stage) for stage in STAGES}
    assert [name for name in deps if "trm/reporting" in deps[name]] == ["report"]
    assert [name for name in deps if "trm/evaluation" in deps[name]] == ["evaluate", "report"]
    assert [name for name in deps if "trm/exporting" in deps[name]] == ["export"]
    assert "trm/datasets" not in deps["train"]
    assert len((ROOT / "dvc.yaml").read_text().splitlines()) < 100


def test_every_dataset_implements_the_protocol() -> None:
    names = {name for name in vars(Dataset) if not name.startswith("_")} | set(Dataset.__annotations__)
    for dataset in dataset_names():
        wanted = names - ({"recall"} if dataset != "arc" else set())
        assert not [name for name in wanted if not hasattr(dataset_module(dataset), name)], dataset


def test_modules_of_stages() -> None:
    users = {stage.name for stage in STAGES if "trm/training/losses.py" in module_digests(stage.module)}
    assert users == {"train"}
    users = {stage.name for stage in STAGES if "trm/models/layers.py" in module_digests(stage.module)}
    assert users == {"train", "evaluate", "report", "export"}


def test_files_with_the_name_of_a_module_belong_to_it() -> None:
    expected = {
        "trm/reporting/html/page.py",
        "trm/reporting/html/page.css",
        "trm/reporting/html/page.js",
        "trm/reporting/html/page.html.j2",
    }
    assert expected <= set(module_digests("trm.reporting.html.page"))
    assert not expected & set(module_digests("trm.evaluation.evaluate"))
