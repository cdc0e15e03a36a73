"""Imports point one way, downwards; no module reaches upwards by a dynamic import."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

from tests.conftest import ROOT

LAYERS = (
    ("utils",),
    ("config",),
    ("storage",),
    ("data", "models"),
    ("datasets",),
    ("training",),
    ("inference",),
    ("evaluation",),
    ("reporting",),
    ("tracking", "exporting"),
    ("stages",),
    ("studies",),
    ("serving",),
    ("ui",),
    ("cli",),
)
"""Packages of `trm/` from bottom to top. A package may import itself and lower layers, but no other package of its
layer. Studies run stages and therefore lie above them."""
FORBIDDEN = {("models", "storage"), ("data", "storage")}
"""Forbidden imports that the layers would allow."""
DYNAMIC = {
    "trm/__init__.py",
    "trm/datasets/registry.py",
    "trm/datasets/drawings.py",
    "trm/datasets/generators.py",
    "trm/datasets/online.py",
    "trm/stages/records.py",
    "trm/training/optimizers.py",
}
"""Files that may call `importlib.import_module`: the lazy public API, the registry and the optional modules of datasets
(downwards), the stage records (downwards), an optional library."""


def _modules() -> Iterator[Path]:
    yield from (ROOT / "trm").rglob("*.py")


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: use an absolute import"
            if node.module == "trm":
                yield from (f"trm.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


def test_every_package_has_a_layer() -> None:
    packages = {path.name for path in (ROOT / "trm").iterdir() if (path / "__init__.py").exists()}
    assert packages == {name for layer in LAYERS for name in layer}


def test_imports_point_downwards() -> None:
    layer_of = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    for path in _modules():
        parts = path.relative_to(ROOT / "trm").parts
        if len(parts) == 1:  # __init__.py and __main__.py: the public API and the command
            continue
        package = parts[0]
        for name in _imported(path):
            head, _, rest = name.partition(".")
            assert head not in ("kfp", "dvc", "pipeline", "components"), f"{path} imports {name}"
            target = rest.partition(".")[0]
            if head != "trm" or target == package:
                continue
            assert layer_of[target] < layer_of[package], f"{path}: {package} must not import {name}"
            assert (package, target) not in FORBIDDEN, f"{path}: {package} must not import {name}"


def test_datasets_do_not_import_each_other() -> None:
    for path in (ROOT / "trm/datasets").glob("*/*.py"):
        for name in _imported(path):
            parts = name.split(".")
            if parts[:2] == ["trm", "datasets"] and len(parts) > 2:
                assert parts[2] == path.parent.name, f"{path} imports {name}"


def test_imported_packages_are_dependencies() -> None:
    """The wheel requires every package that it imports, besides optional ones."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    optional = {"wandb", *(name.replace("-", "_") for extra in ("serve", "export") for name in extras[extra])}
    required = {re.split(r"[=<>\[]", name)[0].replace(".", "-") for name in project["dependencies"]}
    distributions = packages_distributions()
    imported = {name.partition(".")[0] for path in _modules() for name in _imported(path)}
    for package in imported - sys.stdlib_module_names - {"trm"} - optional:
        names = {name.lower().replace("_", "-").replace(".", "-") for name in distributions.get(package, [package])}
        assert names & required, f"{package} is imported, but pyproject.toml does not require it"


def test_dynamic_imports_are_few() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for path in _modules()
        if any(word in path.read_text() for word in ("import_module", "__import__"))
    }
    assert found == DYNAMIC
