"""Ablations: a base recipe and changed keys, whole when they are shown."""

from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from tests.conftest import ROOT
from trm.config.recipes import ablations, changed, read_ablation, recipe_text, recipes
from trm.data.batches import START
from trm.datasets.registry import expected_meta
from trm.stages.params import load_params
from trm.training.trainer import new_state, train_step
from trm.utils.errors import UserError

ABLATIONS = {
    *(
        "no-ema",
        "less-recursion",
        "bigger-net",
        "attention",
        "single-state",
        "seven-state",
        "hrm",
        "transformers-baseline",
    ),
    *("lma-clean", "lma-unclean"),
}


def test_every_published_ablation_is_there() -> None:
    assert set(ablations()) == ABLATIONS
    assert not set(recipes()) & ABLATIONS


@pytest.mark.parametrize("name", sorted(recipes()))
def test_changing_nothing_keeps_every_byte(name: str) -> None:
    text = recipes()[name].read_text()
    assert changed(text, {}) == text


def test_values_change_and_nothing_else() -> None:
    text = (ROOT / "params.yaml").read_text()
    new = changed(text, {"train.lr": 0.5, "model.lma.mode": "unclean", "train.micro_batch_size": 8, "train.seed": None})
    pairs = zip(text.splitlines(), new.splitlines(), strict=True)
    assert [after.strip() for before, after in pairs if before != after] == [
        "lma: {enable: false, mode: unclean, length: 32, dim: 32, heads: 4}",
        "micro_batch_size: 8",
        "lr: 0.5",
        "seed: null",
    ]
    for key in ("train.lrr", "training.lr", "train.lr.base"):
        with pytest.raises(UserError, match=f"{key} is not a key of the params"):
            changed(text, {key: 1})


def test_what_is_shown_is_the_base_with_its_changes() -> None:
    yaml = YAML(typ="safe")
    for name in ABLATIONS:
        base, changes = read_ablation(name)
        whole, values = yaml.load(recipe_text(name)), yaml.load(recipes()[base].read_text())
        assert changes
        for key, value in changes.items():
            part: dict = values
            *sections, last = key.split(".")
            for section in sections:
                part = part[section]
            # What lma is, where it is off, says nothing: an ablation says it all.
            assert part[last] != value or key.startswith("model.lma."), f"{name}: {key} is so in {base} already"
            part[last] = value
        assert whole == values
        assert recipe_text(name).startswith("# ")
        assert f"trm recipe use {name}, then `dvc repro`" in recipe_text(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ABLATIONS))
def test_each_validates_builds_and_takes_a_step(name: str, tmp_path: Path) -> None:
    """At its own size, on one sequence."""
    file = tmp_path / "params.yaml"
    file.write_text(recipe_text(name))
    params = load_params(file)
    meta = expected_meta(params.data)
    assert meta is not None
    settings = params.train.model_copy(update={"global_batch_size": 1, "device": "cpu"})
    tokens = torch.randint(1, meta.vocab_size, (1, meta.seq_len), generator=torch.Generator().manual_seed(0)).int()
    batch = {"inputs": tokens, "labels": tokens, "puzzle_identifiers": torch.zeros(1, dtype=torch.int32)}
    state = new_state(params.model, meta, settings, batch, torch.float32)
    before = [weight.clone() for weight in state.model.networks.parameters()]
    assert train_step(state, state.model, batch, START, settings, 10**6) > 0
    for weight, old in zip(state.model.networks.parameters(), before, strict=True):
        assert not torch.equal(weight, old)
    sizes = {"hrm": 27e6, "attention": 7e6, "bigger-net": 10e6}
    parameters = sum(weight.numel() for weight in state.model.parameters())
    assert parameters == pytest.approx(sizes.get(name, parameters), rel=0.05)
