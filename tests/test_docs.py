"""The documentation: the site builds, links lead somewhere, commands and options exist, reference pages are current."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.conftest import ROOT
from tests.documentation import Console, console_blocks, pages

PREFIXES = {("trm",): "trm", ("python", "-m", "trm"): "trm", ("python", "-m", "pipeline"): "pipeline"}
FURTHER = ("aws", "cd", "docker", "dvc", "git", "kubectl", "mkdir", "pip", "tensorboard", "pre-commit", "source")
"""Programs whose options are not checked."""


def test_site_builds(tmp_path: Path) -> None:
    command = [Path(sys.executable).parent / "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built = {path.relative_to(tmp_path / "site").with_suffix(".md") for path in (tmp_path / "site").rglob("*.html")}
    assert {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")} <= built
    assert 'src="demo/index.html"' in (tmp_path / "site/try-it.html").read_text()
    assert "--web site/demo" in (ROOT / "Makefile").read_text()
    api = (tmp_path / "site/python-api.html").read_text()
    assert "halt_probability" in api  # docstrings of fields are included


def test_every_page_is_in_the_navigation() -> None:
    assert set((ROOT / "docs").rglob("*.md")) == {page for page in pages() if page.is_relative_to(ROOT / "docs")}


def test_reference_pages_are_current() -> None:
    generated = runpy.run_path(str(ROOT / "scripts/reference.py"))["pages"]()
    for path, text in generated.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is stale; run `make docs`"
        assert str(ROOT) not in text


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_relative_links_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    for link in links:
        assert (ROOT / link).exists(), link
    assert links or page != "README.md"


def test_no_page_names_a_local_path() -> None:
    for page in pages():
        assert not re.search(r"(?<!\w)/(work|home|tmp|root)/", page.read_text(encoding="utf-8")), page


def test_every_line_of_a_console_block_is_a_command() -> None:
    blocks = console_blocks()
    assert len(blocks) > 30
    for block in blocks:
        assert all(line.startswith("$ ") for line in block.text.splitlines()), f"{block.page}: {block.text}"
    text = "".join(page.read_text(encoding="utf-8") for page in pages())
    assert text.count("```console\n") == len(blocks)


def options_of(app: str) -> Any:  # noqa: ANN401 - typer bundles its own click
    """The command line `trm` or `python -m pipeline`."""
    from pipeline.cli import app as pipeline_app
    from trm.cli.main import app as trm_app

    return typer.main.get_command({"trm": trm_app, "pipeline": pipeline_app}[app])


def check_command(words: list[str]) -> None:
    """The command exists, and so do its subcommands and options."""
    name = next((name for prefix, name in PREFIXES.items() if words[: len(prefix)] == list(prefix)), None)
    if name is not None:
        command, rest = options_of(name), words[words.index(name) + 1 :]
        while rest and hasattr(command, "commands"):
            if rest[0].startswith("--"):
                break
            command, rest = command.commands[rest[0]], rest[1:]
        known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)} | {"--help"}
        unknown = [word for word in rest if word.startswith("--") and word.partition("=")[0] not in known]
        assert not unknown, (words, unknown)
    elif words[0] == "make":
        targets = re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text())
        assert words[1] in targets, words
    elif words[:2] == ["python", "-m"]:
        assert (ROOT / words[2].replace(".", "/")).with_suffix(".py").is_file(), words
    else:
        assert words[0] in (*FURTHER, "torchrun"), words


@pytest.mark.parametrize("block", console_blocks(), ids=lambda block: f"{block.page.stem}: {block.commands()[0][:40]}")
def test_commands_and_options_exist(block: Console) -> None:
    for command in block.commands():
        words = shlex.split(command.removesuffix("&"))
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words:
            check_command(words)


def test_inline_commands_exist() -> None:
    """Commands in running text, such as `trm study FILE.yaml`, name existing commands."""
    commands = options_of("trm").commands
    for page in pages():
        if page.name == "changelog.md":  # includes old names
            continue
        for name in re.findall(r"`trm ([a-z][a-z-]*)", page.read_text(encoding="utf-8")):
            assert name in commands, f"{page.name}: trm {name}"


def test_comments_name_existing_headings() -> None:
    """Comments refer to sections as `(docs/algorithm.md, Halting)`."""
    found = []
    for path in (file for folder in ("trm", "pipeline", "components") for file in (ROOT / folder).rglob("*.py")):
        for page, heading in re.findall(r"\((docs/[\w/-]+\.md)(?:, ([A-Z][^)\n]*))?\)", path.read_text()):
            found.append(page)
            assert not heading or re.search(rf"(?m)^#+ {heading}$", (ROOT / page).read_text()), (path, page, heading)
    assert found
