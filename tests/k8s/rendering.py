"""Manifests of k8s/ as `kubectl apply -k` renders them."""

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

FOLDER = ROOT / "k8s"
VARIANTS = {
    "dev": ("dev",),
    "dev without users": ("dev", "components:", "  - ../../components/without-users"),
    "dev with TrainJobs": ("dev", "components:", "  - ../../components/trainjob"),
    "dev of a team": ("dev", "components:", "  - ../../components/namespace"),
    "dev with monitoring": ("dev", "components:", "  - ../../components/monitoring"),
    "s3": ("s3",),
    "s3 without users": (
        "s3",
        "components:",
        "  - ../../components/without-users",
        "  - ../../components/trainjob",
        "  - ../../components/monitoring",
    ),
    "s3 with an IAM role": ("s3", "- path: iam-role.yaml"),
}
"""Overlays and their variants: name of the overlay, lines to uncomment."""


def overlay(variant: str, folder: Path) -> Path:
    """Return the folder of an overlay; of a copy in `folder` if lines are uncommented."""
    name, *lines = VARIANTS[variant]
    if not lines:
        return FOLDER / "overlays" / name
    copy = folder / "k8s"
    shutil.copytree(FOLDER, copy)
    file = copy / "overlays" / name / "kustomization.yaml"
    for line in lines:
        text = file.read_text()
        assert text.count(f"# {line}") == 1, f"{name}: {line}"
        file.write_text(text.replace(f"# {line}", line))
    return copy / "overlays" / name


def kubectl(*arguments: str | Path, kubeconfig: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run kubectl. Skips the test if kubectl is missing or too old."""
    if reason := _missing():
        pytest.skip(reason)
    environment = os.environ | {"KUBECONFIG": str(kubeconfig or os.devnull)}
    return subprocess.run(["kubectl", *arguments], check=False, capture_output=True, text=True, env=environment)


@cache
def render(variant: str) -> str:
    """Return the YAML of an overlay. kustomize must not print warnings."""
    with TemporaryDirectory() as folder:
        ran = kubectl("kustomize", overlay(variant, Path(folder)))
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def objects(text: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the objects of a YAML text: (kind, name) -> object."""
    return {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(text)}


@cache
def _missing() -> str:
    if shutil.which("kubectl") is None:
        return "kubectl is not installed"
    done = subprocess.run(["kubectl", "version", "--client", "-o", "json"], check=False, capture_output=True, text=True)
    version = json.loads(done.stdout or "{}").get("kustomizeVersion", "v0")
    return "" if int(version[1:].partition(".")[0]) >= 5 else f"kubectl is too old: kustomize {version}, 5 required"
