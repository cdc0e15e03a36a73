"""The console blocks of the documentation."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from tests.conftest import ROOT

NEEDS = ("cluster", "docker", "gpu", "network", "time")
"""What the commands of a block may need that a test does not have: `<!-- needs: docker -->` before the block."""
_BLOCK = re.compile(r"(?m)^(?:<!-- (?P<marker>.*?) -->\n)?```console\n(?P<text>(?:.*\n)*?)```$")


@dataclass(frozen=True)
class Console:
    """A console block."""

    page: Path
    text: str
    needs: str | None
    """The need in its marker; None: a test runs its commands."""

    def commands(self) -> list[str]:
        """The lines after the prompt `$ `."""
        return [line.removeprefix("$ ") for line in self.text.splitlines()]


def pages() -> list[Path]:
    """README.md, the pages in the order of the navigation, and CONTRIBUTING.md."""
    text = re.sub(r"!!python/name:", "", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    navigation = YAML(typ="safe", pure=True).load(text)["nav"]
    return [ROOT / "README.md", *(ROOT / "docs" / name for name in _files(navigation)), ROOT / "CONTRIBUTING.md"]


def _files(navigation: object) -> Iterator[str]:
    if isinstance(navigation, str):
        yield navigation
    elif isinstance(navigation, dict):
        for value in navigation.values():
            yield from _files(value)
    elif isinstance(navigation, list):
        for value in navigation:
            yield from _files(value)


def console_blocks() -> list[Console]:
    """All console blocks. Raises `ValueError` for a marker of another form."""
    found = []
    for page in pages():
        for match in _BLOCK.finditer(page.read_text(encoding="utf-8")):
            needs = None
            if match["marker"] is not None:
                needs = match["marker"].removeprefix("needs: ")
                if needs not in NEEDS:
                    raise ValueError(f"{page}: a marker must be `needs: ` and one of {NEEDS}. Got {match['marker']!r}")
            found.append(Console(page, match["text"], needs))
    return found
