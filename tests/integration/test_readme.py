"""The commands of README.md and the documentation, run in a fresh clone with a tiny experiment; and DVC beyond them."""

import json
import re
from pathlib import Path

import pytest

from tests.clones import Clone, make_clone
from tests.documentation import console_blocks
from tests.params import edit_params

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return make_clone(tmp_path_factory.mktemp("readme"))


def commands() -> list[str]:
    """The commands of all console blocks without a need, without repetitions."""
    blocks = [block for block in console_blocks() if block.needs is None]
    return list(dict.fromkeys(command for block in blocks for command in block.commands()))


def test_readme_commands(clone: Clone) -> None:
    typed = commands()
    assert typed[0] == "make repro"
    assert len(typed) > 30
    for command in typed:
        # The experiment here is 4x4, and its params differ from every recipe's.
        here = re.sub(r"trm (solve|visualize) [-.\d]{9,}", rf"trm \1 {'.' * 16}", command)
        here = re.sub(r"(trm recipe use \S+).*", r"\1 --force --params other.yaml", here)
        here = here.replace("git commit", "git commit --allow-empty")  # of a result that is committed above
        if here.startswith("trm solve"):  # 3: the answer of this tiny model breaks a rule
            assert clone.start(here).returncode in (0, 3), here
        else:
            clone.run(here)
        if command == "make repro":
            assert json.loads((clone.folder / "outputs/evaluation/metrics.json").read_text())["puzzles"] == 10
            assert clone.ran("make repro") == []
            clone.run("git add -A && git commit -qm 'first result'")
    assert clone.run("dvc exp list --all-commits").count("\n") >= 1
    plots = (clone.folder / "dvc_plots/index.html").read_text()
    assert "vega" in plots
    assert not re.findall(r"<script[^>]*src=", plots), "plots need no network"


def test_a_fresh_clone_pulls_and_has_nothing_to_do(clone: Clone, tmp_path: Path) -> None:
    clone.run("git checkout -q -- . && dvc repro")
    clone.run(f"dvc remote add -f --default store {tmp_path / 'remote'}")
    clone.run("git add -A && git commit -qm remote --allow-empty && dvc push")
    fresh = Clone(tmp_path / "fresh", tmp_path / "states")
    clone.run(f"git clone -q . {fresh.folder}")
    fresh.run("dvc pull")
    assert fresh.ran("dvc repro") == []
    metrics = "outputs/evaluation/metrics.json"
    assert (fresh.folder / metrics).read_bytes() == (clone.folder / metrics).read_bytes()


def test_only_what_a_change_concerns_runs_again(clone: Clone) -> None:
    clone.run("git checkout -q -- . && dvc repro")
    params = clone.folder / "params.yaml"
    text = edit_params(params, {"evaluate.num_votes": 3})
    assert clone.ran("dvc repro") == ["evaluate", "report"]
    params.write_text(text)
    edit_params(params, {"train.lr": 0.0011})
    assert clone.ran("dvc repro") == ["train", "evaluate", "report"]
    params.write_text(text)
    assert clone.ran("dvc repro") == []  # both results are still known
    shown = clone.folder / "trm/reporting/terminal/inspect.py"
    shown.write_text(shown.read_text() + "\n# a comment\n")
    assert clone.ran("dvc repro") == ["report"]
    clone.run("git checkout -q -- .")


def test_experiments(clone: Clone) -> None:
    clone.run("git checkout -q -- . && dvc repro")
    before = (clone.folder / "params.yaml").read_text()
    clone.run("dvc exp run --temp -S train.lr=0.003 -n in-temp")
    for lr in ("0.004", "0.005"):
        clone.run(f"dvc exp run --queue -S train.lr={lr} -n queued-{lr[-1]}")
    clone.run("dvc exp run --run-all")
    assert (clone.folder / "params.yaml").read_text() == before
    table = json.loads(clone.run("dvc exp show --json"))
    rates = {}
    for commit in table:
        for experiment in commit["experiments"] or []:
            data = experiment["revs"][0]["data"]
            rates[experiment["name"]] = data["params"]["params.yaml"]["data"]["train"]["lr"]
            assert data["metrics"]["outputs/evaluation/metrics.json"]["data"]["puzzles"] == 10
    assert rates == rates | {"in-temp": 0.003, "queued-4": 0.004, "queued-5": 0.005}


def test_a_mistake_in_dvc_repro_is_one_line(clone: Clone) -> None:
    params = clone.folder / "params.yaml"
    text = params.read_text()
    params.write_text(text.replace("hidden_size: 16", "hidden_size: 17"))
    done = clone.start("dvc repro")
    params.write_text(text)
    assert done.returncode != 0
    assert "trm: params.yaml: model: hidden_size must be a multiple of num_heads" in done.stderr
    assert "Traceback" not in done.stderr
