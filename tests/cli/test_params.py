"""Errors in params.yaml and in `--set`: exit code 2, one line with the full key, and no output."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.helpers import Run, check_error, replace_in_params
from trm.cli import stage_commands
from trm.stages.params import load_params


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (r"  lr: ", "  lrr: ", ("train.lrr is not a setting; did you mean lr?",)),
        (r"(  lr: .*)\n", r"\1\n  lrr: 3\n", ("train.lrr is not a setting", "did you mean lr?")),
        (r"  epochs: \d+", "  epochs: many", ("train.epochs must be a valid integer. Got 'many'",)),
        (r"  epochs: \d+", "  epochs: 2.5", ("train.epochs", "2.5")),
        (r"  epochs: \d+", "  epochs: 0", ("train.epochs must be greater than or equal to 1. Got 0",)),
        (r"  mlp_t: true", "  mlp_t: 1", ("model.mlp_t must be a valid boolean. Got 1",)),
        (r"  lr: .*", "  lr: '1e-3'", ("train.lr must be a valid number. Got '1e-3'",)),
        (r"arch: trm", "arch: urm", ("model.arch must be 'trm', 'trm_singlez',", "'transformers_baseline'. Got 'urm'")),
        (r"arch: trm", "archs: trm", ("model.archs is not a setting; did you mean arch?",)),
        (
            r"enable: false, mode: clean",
            "enable: true, mode: clean",
            ("lma.length must divide hidden_size", "Got", "32"),
        ),
        (r"freeze_weights: false", "freeze_weights: true", ("init_from must name a trained model", "Got null")),
        (r"hidden_size: 16", "hidden_size: 17", ("hidden_size must be a multiple of num_heads", "17")),
        (r"size: 4", "size: 5", ("data.size must be 4, 6 or 9. Got 5",)),
        (
            r"type: generate",
            "type: generated",
            ("data.source.type must be one of generate, path, url, huggingface. Got 'generated'",),
        ),
        (r"clues: minimal", "clues: 17", ("source.clues must be at most size*size = 16. Got 17",)),
        (r"clues: minimal", "clues: 3", ("data.source.clues", "fewer than 4 clues", "Got 3")),
        (r"(?m)^data:", "data: [", ("not valid YAML", "line")),
    ],
)
def test_invalid_params(run: Run, here: Path, old: str, new: str, words: tuple[str, ...]) -> None:
    replace_in_params(here, old, new)
    check_error(run("fetch"), "params.yaml" if "clues: 3" not in new else "clues", *words)
    assert [path.name for path in here.iterdir()] == ["params.yaml"]


def test_missing_params_file(run: Run, here: Path) -> None:
    check_error(run("train", "--params", "other.yaml"), "other.yaml: no such file; `trm init` writes params.yaml")


def test_exponents_are_numbers(here: Path) -> None:
    for text in ("1e-4", "1.0e-4", "0.0001"):
        replace_in_params(here, r"  lr: .*", f"  lr: {text}")
        assert load_params(here / "params.yaml").train.lr == 1e-4


@pytest.fixture
def sections(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The sections and the tracking settings that the stage gets; the stage itself is not run."""
    seen: dict[str, Any] = {}

    def run_stage(
        _stage: object, sections: dict[str, Any], _inputs: object, _out: object, tracking: object, data: object
    ) -> None:
        del data
        seen.update(sections, tracking=tracking)

    monkeypatch.setattr(stage_commands, "run_stage", run_stage)
    return seen


@pytest.mark.parametrize("source", ["file", "JSON"])
def test_set(run: Run, here: Path, sections: dict[str, Any], source: str) -> None:
    """Values are parsed as YAML, the last of several for a key counts, and other settings keep their values."""
    params, text = load_params(here / "params.yaml"), (here / "params.yaml").read_text()
    given = "params.yaml"
    if source == "JSON":
        given = json.dumps({name: getattr(params, name).model_dump(mode="json") for name in ("model", "train")})
    changes = ["train.lr=3e-4", "train.epochs=7", "train.epochs=8", "model.lma.length=4", "train.micro_batch_size=5"]
    changes += [
        "train.optimizer.network={name: adam_atan2, beta1: 0.8, beta2: 0.9, weight_decay: 0.5, fused: false}",
        "tracking.tags=[a, b]",
    ]
    arguments = [part for change in changes for part in ("--set", change)]
    assert run("train", "--params", given, *arguments) == (0, "", "")
    train, model = sections["train"], sections["model"]
    assert (train.lr, train.epochs, train.micro_batch_size, model.lma.length) == (3e-4, 8, 5, 4)
    assert (train.optimizer.network.beta1, train.optimizer.network.weight_decay) == (0.8, 0.5)
    assert train.optimizer.puzzle_emb == params.train.optimizer.puzzle_emb
    same = ("seed", "ema_rate", "global_batch_size", "init_from")
    assert [getattr(train, name) for name in same] == [getattr(params.train, name) for name in same]
    assert sections["tracking"].tags == ("a", "b")
    assert run("train", "--params", given, "--set", "train.micro_batch_size=null")[0] == 0
    assert sections["train"].micro_batch_size is None
    assert (here / "params.yaml").read_text() == text


@pytest.mark.parametrize("source", ["file", "JSON"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("train.lrr=3", ("train.lrr is not a setting; did you mean lr?",)),
        ("trian.lr=3", ("trian is not a setting; did you mean train?",)),
        ("train.optimizer.netwrk.lr=3", ("train.optimizer.netwrk is not a setting; did you mean network?",)),
        ("train.epochs=many", ("train.epochs must be a valid integer. Got 'many'",)),
        ("train.epochs=0", ("train.epochs must be greater than or equal to 1. Got 0",)),
        ("train.compile=maybe", ("train.compile must be 'auto' or a valid boolean. Got 'maybe'",)),
        ("train.depth_schedule=null", ("train.depth_schedule must be a list. Got None",)),
        ("train.optimizer.network.name=sgd", ("network.name must be one of adam_atan2, adamw, muon. Got 'sgd'",)),
        ("train.epochs=", ("train.epochs must be a valid integer. Got None",)),
        ("train.lr='1e-3'", ("train.lr must be a valid number. Got '1e-3'",)),
        ("model.hidden_size=17", ("hidden_size must be a multiple of num_heads", "17")),
        ("train.lr.x=1", ("--set train.lr.x: train.lr has no keys, its value is",)),
        ("train.epochs", ("--set: expected KEY=VALUE", "Got 'train.epochs'")),
        ("=3", ("--set: expected KEY=VALUE", "Got '=3'")),
        ("train..lr=3", ("--set: expected KEY=VALUE", "Got 'train..lr=3'")),
        ("train.lr=[1", ("--set train.lr: not valid YAML", "Got '[1'")),
        ("train.lr=!!int x", ("--set train.lr: not valid YAML",)),
        (
            "evaluate.num_votes=3",
            ("evaluate.num_votes: has no effect on this command, which reads model, train",),
        ),
        ("tracking.mode=on", ("tracking.mode must be 'disabled', 'offline' or 'online'. Got 'on'",)),
        ("tracking.mod=offline", ("tracking.mod is not a setting; did you mean mode?",)),
    ],
)
def test_set_errors(run: Run, here: Path, source: str, change: str, words: tuple[str, ...]) -> None:
    given = "params.yaml"
    if source == "JSON":
        params = load_params(here / "params.yaml")
        given = json.dumps({name: getattr(params, name).model_dump(mode="json") for name in ("model", "train")})
    check_error(run("train", "--params", given, "--set", change), *words)
    assert [path.name for path in here.iterdir()] == ["params.yaml"]


def test_set_applies_to_tracking_of_the_environment(
    run: Run, here: Path, sections: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRM_TRACKING", '{"mode": "offline", "project": "a"}')
    assert run("train", "--set", "tracking.project=b")[0] == 0
    assert (sections["tracking"].mode, sections["tracking"].project) == ("offline", "b")
    check_error(run("train", "--set", "tracking.project=3"), "tracking.project must be a valid string. Got 3")


def test_set_changes_the_dataset(run: Run, here: Path, sections: dict[str, Any]) -> None:
    """Section `data` is validated as that of the dataset it names after the changes."""
    source = "{type: generate, train_puzzles: 9, test_puzzles: 3, wall_density: [0.2, 0.3], min_path: 2, seed: 0}"
    check_error(run("fetch", "--set", "data.name=maze"), "data.source")
    check_error(run("fetch", "--set", "data.name=mazes"), "data.name must be one of", "Got 'mazes'")
    changes = ("--set", "data.name=maze", "--set", f"data.source={source}")
    code, _, err = run("fetch", *changes)
    assert (code, err) == (0, "")
    assert (sections["data"].name, sections["data"].source.min_path) == ("maze", 2)
