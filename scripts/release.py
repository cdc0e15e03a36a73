"""Print the notes of a release: `python scripts/release.py v0.2.0`. Exits with 2 if the tag is not that of the version.

It needs no package: the release workflow runs it before anything is installed.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def notes(tag: str, project: str, changelog: str) -> str:
    """Return the section of `changelog` about the version in `project`, the text of pyproject.toml.

    Raises `ValueError` if `tag` is not `v<version>`, or if the section is missing or empty.
    """
    version = tomllib.loads(project)["project"]["version"]
    if tag != f"v{version}":
        raise ValueError(f"tag {tag or '(none)'} is not v{version}, the version of pyproject.toml; correct one of them")
    found = re.search(rf"^## {re.escape(version)}\b[^\n]*\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    text = found[1].strip() if found else ""
    if not text:
        raise ValueError(f"CHANGELOG.md has no section `## {version}`; rename `## Unreleased`, and add an empty one")
    return text


def main() -> None:
    """Print the notes."""
    try:
        print(notes(sys.argv[1], (ROOT / "pyproject.toml").read_text(), (ROOT / "CHANGELOG.md").read_text()))
    except ValueError as error:
        print(f"release: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
