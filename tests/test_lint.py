"""Linters of files that are no Python, and a rule for Python that ruff lacks."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML

from tests.conftest import ROOT

PROGRAMS = Path(sys.executable).parent
MADE_BY_MACHINE = "pipeline/trm.yaml"


def lint(*command: str | Path) -> None:
    """The linter reports no errors."""
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def _private_names(tree: ast.Module) -> Iterator[str]:
    """The private names of the project that are imported, and those that `monkeypatch` replaces."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("trm", "pipeline", "components"):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr":
            values = [argument.value for argument in node.args[:2] if isinstance(argument, ast.Constant)]
            names = [value.rpartition(".")[2] for value in values if isinstance(value, str)]
        else:
            continue
        yield from (name for name in names if name.startswith("_"))


def test_tests_use_public_names() -> None:
    """Of attributes ruff checks it (SLF001), but neither of imports nor of names in strings."""
    assert list(_private_names(ast.parse('from trm.cli import _a\npatch.setattr("trm.b._c", 1)'))) == ["_a", "_c"]
    for file in sorted((ROOT / "tests").rglob("*.py")):
        assert list(_private_names(ast.parse(file.read_text()))) == [], file


def test_dockerfile() -> None:
    lint(PROGRAMS / "hadolint", "Dockerfile")


def test_spelling() -> None:
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    lint(PROGRAMS / "codespell", *names.splitlines())


def test_pre_commit_runs_the_pinned_versions() -> None:
    hooks = YAML(typ="safe").load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    pins = dict(line.split("==", 1) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    revisions = {hook["repo"].rpartition("/")[2].removesuffix("-pre-commit"): hook.get("rev") for hook in hooks}
    for name in ("ruff", "yamllint", "codespell"):
        assert revisions[name] == f"v{pins[name]}", name


def test_yaml() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "*.yaml", "*.yml"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert "params.yaml" in listed
    lint(PROGRAMS / "yamllint", "--strict", *(name for name in listed if name != MADE_BY_MACHINE))
