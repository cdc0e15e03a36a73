"""The records, dvc.yaml and the command line say the same; the arrows of the design hold."""

import ast
import subprocess
import sys

import pytest
import typer
from ruamel.yaml import YAML

from tests.conftest import ROOT
from trm.cli.main import app
from trm.config.params import Params
from trm.datasets.registry import dataset_module, kinds
from trm.stages.params import load_params
from trm.data.protocol import Kind
from trm.stages.content_keys import NOT_DEPS, content_keys, dvc_deps, key_request, module_digests
from trm.stages.records import STAGES, Stage

DVC = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())
each_stage = pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)


def test_same_stages() -> None:
    assert list(DVC["stages"]) == [stage.name for stage in STAGES]
    assert {section for stage in STAGES for section in stage.sections} == set(Params.model_fields) - {
        "cluster",
        "tracking",
    }


@each_stage
def test_dvc_yaml_is_the_record(stage: Stage) -> None:
    folders = (*stage.inputs, stage.output)
    flags = "".join(f" --{name} outputs/{name}" for name in folders)
    assert DVC["stages"][stage.name] == {
        "cmd": f"python -m trm {stage.name} --params params.yaml{flags}",
        "deps": [f"outputs/{name}" for name in stage.inputs] + dvc_deps(stage),
        "params": list(stage.sections),
        "outs": [f"outputs/{stage.output}"],
    }


@each_stage
def test_command_line_is_the_record(stage: Stage) -> None:
    command = typer.main.get_command(app).commands[stage.name]  # pyright: ignore[reportAttributeAccessIssue]
    options = {option.name: option.default for option in command.params}
    assert options == {"params": "params.yaml"} | {name: f"outputs/{name}" for name in (*stage.inputs, stage.output)}


@each_stage
def test_deps_are_what_python_really_imports(stage: Stage) -> None:
    """The walk over the source finds every module of the package that running the stage's module loads."""
    code = f"import sys, {stage.module}; print(*(name for name in sys.modules if name.split('.')[0] == 'trm'))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    files = {f"{name.replace('.', '/')}.py" for name in loaded.split() if name not in NOT_DEPS}
    packages = {file for file in files if (ROOT / file).with_suffix("").is_dir()}
    assert files - packages <= set(module_digests(stage.module))


def test_package_inits_hold_nothing_that_could_change_a_result() -> None:
    for path in (ROOT / "trm").glob("*/__init__.py"):
        statements = ast.parse(path.read_text()).body
        assert [type(statement) for statement in statements] == [ast.Expr], f"{path} must be a docstring alone"


# Who may import whom: a room may import the rooms named here, and itself.
ARROWS = {
    "errors": set(),
    "meta": set(),
    "progress": set(),
    "files": set(),
    "recipes": {"errors"},
    "section": {"errors"},
    "cluster": {"section"},
    "tracking": {"files", "section"},
    "config": {"cluster", "errors", "section", "tracking"},
    "device": {"config", "errors"},
    "distributed": {"errors"},
    "artifacts": {"errors", "files"},
    "data": {"config", "errors", "files", "meta", "progress", "section"},
    "model": {"config", "errors", "meta", "section"},
    "training": {
        *("config", "errors", "meta", "progress", "device", "distributed", "artifacts", "data", "files", "model", "s3"),
        "section",
    },
    "evaluation": {"config", "errors", "meta", "progress", "device", "distributed", *("data", "model", "training")},
    "inspection": {"artifacts", "data", "model", "training"},
    "s3_client": {"errors"},
    "s3_threads": {"errors", "s3_client"},
    "s3": {"artifacts", "errors", "progress", "s3_client", "s3_threads"},
    "mirror": {"artifacts", "errors", "files", "meta", "model", "s3", "training"},
    "stages": {"section", "config", "artifacts", "data", "errors", "mirror", "s3", "tracking"},
    "report": {
        *("artifacts", "config", "data", "device", "errors", "evaluation", "files", "meta", "model", "stages"),
        "training",
    },
    "tracker": {"data", "report", "tracking"},
    "study": {"config", "errors", "recipes", "report", "section", "stages", "tracking"},
}


def test_arrows() -> None:
    rooms = {path.stem for path in (ROOT / "trm").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms == set(ARROWS) | {"__init__", "__main__", "cli", "cli_ask"}
    for path in (ROOT / "trm").rglob("*.py"):
        room = path.relative_to(ROOT / "trm").parts[0].removesuffix(".py")
        if room not in ARROWS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names += [f"trm.{alias.name}" for alias in node.names] if node.module == "trm" else [node.module or ""]
            for name in names:
                head, _, rest = name.partition(".")
                assert head not in ("kfp", "dvc"), f"{path} imports {name}"
                target = rest.partition(".")[0]
                if head == "trm" and target != room:
                    assert target in ARROWS[room], f"{path}: {room} must not import {name}"


def test_content_keys_follow_what_a_stage_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_params(ROOT / "params.yaml")
    keys = content_keys(params)
    assert keys == content_keys(params)

    def changed(section: str, **values: object) -> set[str]:
        part = getattr(params, section).model_copy(update=values)
        other = content_keys(params.model_copy(update={section: part}))
        return {name for name in keys if keys[name] != other[name]}

    assert changed("augment", seed=77) == {"augment", "train", "evaluate", "report"}
    assert changed("train", lr=0.5) == {"train", "evaluate", "report"}
    assert changed("evaluate", votes=99) == {"evaluate", "report"}
    assert changed("report", gallery=3) == {"report"}
    assert changed("data", allow_leakage=True) == set(keys)


def test_a_stage_depends_on_every_kind_in_dvc_and_on_its_own_in_its_key() -> None:
    augment = next(stage for stage in STAGES if stage.name == "augment")
    assert {"trm/datasets", "trm/datasets/sudoku/augmentation.py", "trm/datasets/maze/grid.py"} <= set(dvc_deps(augment))
    params = load_params(ROOT / "params.yaml")
    sections = {"data": params.data, "augment": params.augment}
    modules = key_request(augment, sections, "sudoku", {})["modules"]
    assert {"trm/datasets/sudoku/dataset.py", "trm/datasets/sudoku/augmentation.py", "trm/data/parquet.py"} <= set(modules)
    assert not {"trm/datasets/maze/dataset.py", "trm/datasets/maze/grid.py"} & set(modules)


def test_every_kind_offers_what_a_kind_must() -> None:
    names = {name for name in vars(Kind) if not name.startswith("_")} | set(Kind.__annotations__)
    for kind in kinds():
        wanted = names - ({"recall"} if kind != "arc" else set())
        assert not [name for name in wanted if not hasattr(dataset_module(kind), name)], kind


def test_a_changed_module_changes_the_keys_of_those_who_import_it() -> None:
    users = {stage.name for stage in STAGES if "trm/training/losses.py" in module_digests(stage.module)}
    assert users == {"train"}
    users = {stage.name for stage in STAGES if "trm/models/layers.py" in module_digests(stage.module)}
    assert users == {"train", "evaluate", "report"}


def test_what_lies_beside_a_module_under_its_name_belongs_to_it() -> None:
    beside = {"trm/reporting/html/page.py", "trm/reporting/html/page.css", "trm/reporting/html/page.js", "trm/reporting/html/page.html.j2"}
    assert beside <= set(module_digests("trm.reporting.html.page"))
    assert not beside & set(module_digests("trm.evaluation.evaluate"))
