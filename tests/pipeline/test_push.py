"""`make push`: each image keeps a tag of its own, and its digest is printed."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

DOCKER = """#!/bin/sh
echo "$@" >> "{log}"
case "$1 $2 $4" in
  "image inspect "*Labels*) echo "{revision} sha256:0123456789abcdef" ;;
  "image inspect "*) printf 'another/trm@sha256:1\\nregistry.example/trm@sha256:2\\n' ;;
esac
"""


@pytest.mark.parametrize("revision", ["c" * 40, "dev"])
def test_push_adds_a_permanent_tag_and_prints_the_digest(tmp_path: Path, revision: str) -> None:
    log, docker = tmp_path / "log", tmp_path / "docker"
    docker.write_text(DOCKER.format(log=log, revision=revision))
    docker.chmod(0o755)
    done = subprocess.run(
        ["make", "-s", "push", f"DOCKER={docker}", "IMAGE=registry.example/trm"],
        check=True,
        cwd=ROOT,
        env={**os.environ, "MAKEFLAGS": "", "GITHUB_OUTPUT": str(tmp_path / "outputs")},
        capture_output=True,
        text=True,
    )
    assert (tmp_path / "outputs").read_text() == "digest=sha256:2\n"
    tag = f"registry.example/trm:{revision[:12]}-0123456789ab"
    commands = [line for line in log.read_text().splitlines() if not line.startswith("image inspect")]
    assert commands == [
        f"tag registry.example/trm:latest {tag}",
        f"push {tag}",
        "push registry.example/trm:latest",
    ]
    assert done.stdout.splitlines()[-1] == "registry.example/trm@sha256:2"


def test_image_of_a_release_has_its_tag(tmp_path: Path) -> None:
    log, docker = tmp_path / "log", tmp_path / "docker"
    docker.write_text(DOCKER.format(log=log, revision="c" * 40))
    docker.chmod(0o755)
    done = subprocess.run(
        ["make", "-s", "push", f"DOCKER={docker}", "IMAGE=registry.example/trm"],
        check=True,
        cwd=ROOT,
        env={**os.environ, "MAKEFLAGS": "", "TAG": "v0.2.0"},
        capture_output=True,
        text=True,
    )
    assert log.read_text().splitlines()[-2:] == [
        "tag registry.example/trm:latest registry.example/trm:v0.2.0",
        "push registry.example/trm:v0.2.0",
    ]
    assert done.stdout.splitlines()[-1] == "registry.example/trm@sha256:2"


def test_push_of_a_missing_image_fails(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho 'no such image' >&2; exit 1\n")
    docker.chmod(0o755)
    done = subprocess.run(["make", "-s", "push", f"DOCKER={docker}"], check=False, cwd=ROOT, capture_output=True)
    assert done.returncode != 0
