"""The command `trm new-dataset`."""

import keyword
import re
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from trm.utils.errors import UserError

TEMPLATE = "trm.cli.dataset_template"
"""The package with the module and its test."""
TEMPLATE_NAME = "sorting"
"""The name of the dataset in the template."""


def new_dataset_command(
    name: Annotated[str, typer.Argument(help="Name of the dataset: a new folder in trm/datasets.")],
) -> None:
    """Write a dataset module and its test into this checkout: an example to change, which works as it is."""
    root = Path(__file__).parents[2]
    if not (root / "pyproject.toml").is_file() or not (root / "tests/datasets").is_dir():
        raise UserError(
            "new-dataset: trm is installed without its source, and datasets are modules of the package; clone the "
            "repository and run `pip install -e .` there"
        )
    written = write_dataset(name, root)
    for file in written:
        print(f"  {file.relative_to(root)}")
    print(f"dataset {name}: change these files, then test them with `pytest {written[-1].relative_to(root)}`")


def write_dataset(name: str, root: Path) -> list[Path]:
    """Write the module and the test of a dataset into the checkout `root`; returns the files, the test last.

    Raises `UserError` for a name that is not an identifier in lower case, or is taken.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UserError(
            f"new-dataset: a name has lower-case letters, digits and _ and starts with a letter. Got {name!r}"
        )
    folder, test = root / "trm/datasets" / name, root / f"tests/datasets/test_{name}.py"
    taken = next((path for path in (folder, folder.with_suffix(".py"), test) if path.exists()), None)
    if taken is not None or name == "tokens":  # the dataset of imported checkpoints
        where = f", by {taken.relative_to(root)}" if taken is not None else ""
        raise UserError(f"new-dataset: the name {name} is taken{where}; choose another one")
    folder.mkdir()
    targets = {"__init__.py": folder / "__init__.py", "dataset.py": folder / "dataset.py", "test_dataset.py.txt": test}
    try:
        for source, target in targets.items():
            text = files(TEMPLATE).joinpath(source).read_text(encoding="utf-8")
            text = text.replace(TEMPLATE, f"trm.datasets.{name}").replace(f'"{TEMPLATE_NAME}"', f'"{name}"')
            text = text.replace(f"name: {TEMPLATE_NAME}", f"name: {name}").replace(f"`{TEMPLATE_NAME}`", f"`{name}`")
            # The imports stay sorted under the new name.
            text = re.sub(r"(from trm\..*\n)+", lambda block: "".join(sorted(block[0].splitlines(keepends=True))), text)
            target.write_text(text, encoding="utf-8")
    except BaseException:  # such as a full disk
        shutil.rmtree(folder)
        test.unlink(missing_ok=True)
        raise
    return list(targets.values())
