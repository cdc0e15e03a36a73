"""Commands that messages name: those that work in the current folder."""

from pathlib import Path


def run_all() -> str:
    """The command that runs all stages: `dvc repro` in a checkout, `trm run` where there is no dvc.yaml."""
    return "dvc repro" if Path("dvc.yaml").is_file() else "trm run"
