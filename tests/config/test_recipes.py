"""Recipes: a base recipe with changed keys, expanded to complete params files."""

from functools import reduce
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from tests.conftest import ROOT
from trm.config.recipes import (
    KEPT_SECTIONS,
    ablations,
    changed,
    read_changes,
    recipe_text,
    recipes,
    split_sections,
    summary,
)
from trm.data.batches import START
from trm.datasets.registry import expected_meta
from trm.stages.params import load_params, load_recipe
from trm.training.step import new_state, train_step
from trm.utils.errors import ParamsError, UserError


def settings(text: str) -> dict[str, Any]:
    """The values of a params file."""
    return YAML(typ="safe", pure=True).load(text)


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


def test_published_ablations() -> None:
    assert set(ablations()) == ABLATIONS
    assert not set(recipes()) & ABLATIONS


@pytest.mark.parametrize("name", sorted(recipes()))
def test_changing_nothing_keeps_every_byte(name: str) -> None:
    text = recipe_text(name)
    assert changed(text, {}) == text


def test_one_recipe_is_complete_and_the_default() -> None:
    assert [name for name in recipes() if read_changes(name)[0] is None] == ["sudoku-6x6"]
    default, sections = split_sections((ROOT / "params.yaml").read_text(), KEPT_SECTIONS)
    assert default == recipe_text("sudoku-6x6")
    assert [line for line in sections.splitlines() if line[:1].isalpha()] == ["tracking:", "cluster:"]


@pytest.mark.parametrize("section", ["model", "train", "evaluate", "report"])
def test_params_name_every_setting(section: str) -> None:
    """Also those that have a default: a reader finds each of them in the file."""
    values = settings((ROOT / "params.yaml").read_text())
    assert set(values[section]) == set(getattr(load_recipe("sudoku-6x6"), section).model_dump())


@pytest.mark.parametrize("name", sorted({*recipes(), *ABLATIONS} - {"sudoku-6x6"}))
def test_recipe_changes_its_base(name: str) -> None:
    """Each change has an effect (except within `lma`, whose ablations state all settings), and nothing else differs."""
    base, changes = read_changes(name)
    assert base is not None and changes
    text = recipe_text(base)
    before = settings(text)
    for key, value in changes.items():
        assert key.startswith("model.lma.") or reduce(dict.__getitem__, key.split("."), before) != value, key
    assert settings(recipe_text(name)) == settings(changed(text, changes))
    lines = recipe_text(name).splitlines()
    assert f"# Command:  trm recipe use {name}, then `dvc repro` or `trm run`" in lines
    assert f"# Base:     {base}, with" in lines
    load_recipe(name)


@pytest.mark.parametrize("name", sorted(recipes()))
def test_opening_comment_states_score_and_time(name: str) -> None:
    text = recipe_text(name)
    comment = text[: text.index("\n\n")].splitlines()
    origin, title, *_ = comment
    assert origin == f"# Recipe {name}; scores and times are those of the unchanged recipe."
    assert summary(recipes()[name]) == title.removeprefix("# ")
    assert "exact" in title
    assert [part for part in ("Command:", "Time:") if any(part in line for line in comment)] == ["Command:", "Time:"]
    assert "measured" in title or "published" in title


def test_values_by_hand() -> None:
    arc = settings(recipe_text("arc-agi-2"))
    assert (arc["data"]["edition"], arc["evaluate"]["num_votes"]) == ("arc-agi-2", 1001)
    assert (arc["train"]["global_batch_size"], arc["train"]["optimizer"]["puzzle_emb"]["lr"]) == (768, 0.01)
    assert (arc["model"]["L_cycles"], arc["model"]["mlp_t"], arc["model"]["pos_encodings"]) == (4, False, "rope")
    mlp = settings(recipe_text("sudoku-extreme-mlp"))
    assert (mlp["model"]["L_cycles"], mlp["model"]["mlp_t"], mlp["data"]["source"]["subsample"]) == (6, True, 1000)


def test_comments_follow_their_values() -> None:
    text = "a:\n  b: 1 # of the base\n  c: 2 # kept\n\nd: 3 # last\n"
    recipe = YAML().load("changes:\n  a.b: 4 # of the recipe\n  d: 5\n")["changes"]
    assert changed(text, recipe) == "a:\n  b: 4  # of the recipe\n  c: 2 # kept\n\nd: 5\n"
    assert changed(text, {"a.b": 4}) == text.replace("b: 1", "b: 4")


def test_recipe_file_is_not_a_params_file() -> None:
    with pytest.raises(ParamsError, match=r"arc-agi-1.yaml: is a recipe .* `trm recipe use arc-agi-1 --params FILE`"):
        load_params(recipes()["arc-agi-1"])


def test_split_sections() -> None:
    text = "# top\n\na: 1\n\n# about b\nb:\n  c: |\n    tracking: 1\n# about d\nd: 2\n"
    assert split_sections(text, ("b",)) == (
        "# top\n\na: 1\n# about d\nd: 2\n",
        "\n# about b\nb:\n  c: |\n    tracking: 1\n",
    )
    assert split_sections(text, ()) == (text, "")
    assert split_sections("", ("b",)) == ("", "")


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


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ABLATIONS))
def test_ablation_trains_one_step(name: str) -> None:
    """At its full size, on one sequence."""
    params = load_recipe(name)
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
