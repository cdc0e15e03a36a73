"""The files in requirements/: the versions of constraints.txt, complete, and with a digest for every file."""

import re
import tomllib
from collections.abc import Iterable
from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

LOCKS = sorted(path.stem for path in (ROOT / "requirements").glob("*.txt"))
IMAGE = ("launcher", "tracking", "serve", "export")
"""Extras of the image."""
UNPINNED = {"pywin32", "tzdata", "hatchling"}
"""Not in constraints.txt: two packages for Windows, and the build backend, which pyproject.toml pins."""


def locked(name: str) -> dict[str, tuple[str, int]]:
    """Package -> version and number of digests."""
    text = (ROOT / f"requirements/{name}.txt").read_text()
    found: dict[str, tuple[str, int]] = {}
    for entry in re.split(r"\n(?=\S)", text.strip()):
        package = re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)", entry)
        assert package is not None, entry
        found[canonicalize_name(package[1])] = (package[2], len(re.findall(r"--hash=sha256:[0-9a-f]{64}(?!\w)", entry)))
    return found


def required(names: Iterable[str]) -> set[str]:
    """The packages that an installation of these has in this environment, without torch and what only it requires."""
    pending = [Requirement(name) for name in names]
    found: set[tuple[str, str]] = set()
    while pending:
        each = pending.pop()
        name = canonicalize_name(each.name)
        for extra in ("", *each.extras):
            if name == "torch" or (name, extra) in found:
                continue
            found.add((name, extra))
            needs = map(Requirement, requires(name) or ())
            pending += [need for need in needs if need.marker is None or need.marker.evaluate({"extra": extra})]
    return {name for name, _ in found} - {"trm"}


@pytest.mark.parametrize("name", LOCKS)
def test_versions_and_digests(name: str) -> None:
    text = (ROOT / "constraints.txt").read_text()
    pins = {
        str(canonicalize_name(package)): version for package, version in re.findall(r"(?m)^([^=#\s]+)==([^\s;]+)", text)
    }
    versions = locked(name)
    assert versions
    assert not [package for package, (_, digests) in versions.items() if not digests]
    different = {package for package, (version, _) in versions.items() if pins.get(package) != version}
    assert different <= UNPINNED, "run `make lock`"


@pytest.mark.parametrize(("name", "extras"), [("image", IMAGE), ("dev", (*IMAGE, "tensorboard", "dev"))])
def test_requirements_are_complete(name: str, extras: tuple[str, ...]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [*project["dependencies"], *(each for extra in extras for each in project["optional-dependencies"][extra])]
    missing = required(names) - locked(name).keys()
    assert not missing, "run `make lock`"
    assert "torch" not in locked(name)


def test_build_backend() -> None:
    (backend,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    name, _, version = backend.partition("==")
    assert locked("build")[name][0] == version
    assert backend in (ROOT / "requirements/build.in").read_text().splitlines()
