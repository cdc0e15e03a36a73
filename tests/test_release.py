"""Releases: the tag, the version and the changelog agree."""

import subprocess
import sys

import pytest

from scripts.release import notes
from tests.conftest import ROOT

PROJECT = '[project]\nname = "trm"\nversion = "0.2.0"\n'
CHANGELOG = "# Changelog\n\n## Unreleased\n\n## 0.2.0 - 2026-12-01\n\n### Added\n\n- A.\n\n## 0.1.0\n\n- Old.\n"


def test_notes_are_the_section_of_the_version() -> None:
    assert notes("v0.2.0", PROJECT, CHANGELOG) == "### Added\n\n- A."
    assert notes("v0.1.0", PROJECT.replace("0.2.0", "0.1.0"), CHANGELOG) == "- Old."


@pytest.mark.parametrize(
    ("tag", "changelog", "message"),
    [
        ("v0.2.1", CHANGELOG, "tag v0.2.1 is not v0.2.0, the version of pyproject.toml; correct one of them"),
        ("", CHANGELOG, "tag \\(none\\) is not v0.2.0"),
        ("v0.2.0", CHANGELOG.replace("## 0.2.0", "## 0.2.00"), "CHANGELOG.md has no section `## 0.2.0`; rename"),
        ("v0.2.0", "## 0.2.0\n\n## 0.1.0\n\n- Old.\n", "CHANGELOG.md has no section"),
    ],
)
def test_wrong_releases_are_refused(tag: str, changelog: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        notes(tag, PROJECT, changelog)


def test_command() -> None:
    command = [sys.executable, ROOT / "scripts/release.py", "v9.9.9"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("release: tag v9.9.9 is not v")
