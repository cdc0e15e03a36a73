"""Training initialized from a model, and training of the puzzle embedding alone."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from trm.config.base import parse
from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.config.training import InitFromParams, TrainParams
from trm.data.batches import START, collate
from trm.data.parquet import read_meta, read_split
from trm.models.act import TRM, Batch, build_model
from trm.models.variants import VARIANTS
from trm.training.checkpoint import FILE, load_checkpoint, save_checkpoint
from trm.training.distributed import SINGLE_PROCESS
from trm.training.ema import ema_copy
from trm.training.step import network_of, new_state, train_step
from trm.training.trainer import train
from trm.training.validation import to_tensors
from trm.utils.errors import DataError, ParamsError, UserError
from trm.utils.paths import file_digest


@dataclass
class Setting:
    """The file of a trained model, and data for it."""

    params: ModelParams
    meta: DatasetMeta
    settings: TrainParams
    batch: Batch
    source: TRM
    file: Path

    def from_source(self, reset: bool = False, **changes: object) -> TrainParams:
        init_from = InitFromParams(model=str(self.file), sha256=file_digest(self.file), reset_puzzle_emb=reset)
        return self.settings.model_copy(update={"init_from": init_from, **changes})


@pytest.fixture
def setting(dataset: Path, model_params: ModelParams, train_params: TrainParams, tmp_path: Path) -> Setting:
    return _setting(dataset, model_params, train_params, tmp_path)


def _setting(
    dataset: Path, model_params: ModelParams, train_params: TrainParams, folder: Path, **changes: object
) -> Setting:
    params = model_params.model_copy(update={"puzzle_emb_ndim": 16, "puzzle_emb_len": 1, **changes})
    meta = read_meta(dataset).model_copy(update={"num_identifiers": 5})
    source = build_model(params, meta, seed=9)
    average = ema_copy(source)
    with torch.no_grad():
        for weight in average.parameters():
            weight.normal_(std=0.2)  # not the raw weights
        source.puzzle_table.normal_()
    save_checkpoint(folder / FILE, source, average, {"step": 7})
    batch = to_tensors(collate(read_split(dataset / "train"), np.array([0, 4, 8, 12])), torch.device("cpu"))
    batch["puzzle_identifiers"] = torch.tensor([3, 1, 3, 3], dtype=torch.int32)
    return Setting(params, meta, train_params, batch, load_checkpoint(folder / FILE)[0], folder / FILE)


@pytest.mark.parametrize("arch", VARIANTS)
def test_only_the_rows_of_the_batch_change(
    dataset: Path, model_params: ModelParams, train_params: TrainParams, tmp_path: Path, arch: str
) -> None:
    given = _setting(dataset, model_params, train_params, tmp_path, arch=arch)
    settings = given.from_source(freeze_weights=True)
    state = new_state(given.params, given.meta, settings, given.batch, torch.float32)
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    network = network_of(state.model, settings, SINGLE_PROCESS)
    for _ in range(3):
        train_step(state, network, given.batch, START, settings, 10)
    after = state.model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in after if name != "puzzle_table")
    assert all(torch.equal(value, before[name]) for name, value in state.average.named_parameters())
    changed = (after["puzzle_table"] != before["puzzle_table"]).any(-1)
    assert changed.tolist() == [False, True, False, True, False]
    # The network has no gradients.
    assert all(weight.grad is None and not weight.requires_grad for weight in state.model.parameters())


def test_without_freezing_the_network_is_trained(setting: Setting) -> None:
    settings = setting.from_source()
    state = new_state(setting.params, setting.meta, settings, setting.batch, torch.float32)
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    # Raw weights, EMA weights, initial states and table: all those of the EMA model.
    assert all(torch.equal(value, before[name]) for name, value in setting.source.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in state.average.state_dict().items())
    train_step(state, state.model, setting.batch, START, settings, 10)
    assert not torch.equal(state.model.token_embedding, before["token_embedding"])


def test_a_table_for_other_puzzles(setting: Setting) -> None:
    other = setting.meta.model_copy(update={"num_identifiers": 8})
    with pytest.raises(UserError, match="should have the dataset's 8 identifiers. Got 5.*reset_puzzle_emb: true"):
        new_state(setting.params, other, setting.from_source(), setting.batch, torch.float32)
    model = new_state(setting.params, other, setting.from_source(reset=True), setting.batch, torch.float32).model
    assert torch.allclose(model.puzzle_table, setting.source.puzzle_table.mean(0).expand(8, 16))


def test_the_same_number_of_other_puzzles(setting: Setting, tmp_path: Path) -> None:
    here, there = (setting.meta.model_copy(update={"puzzles_digest": word * 64}) for word in "ab")
    model = build_model(setting.params, here)
    save_checkpoint(setting.file, model, ema_copy(model), {})
    new_state(setting.params, here, setting.from_source(), setting.batch, torch.float32)
    with pytest.raises(UserError, match="or other puzzles"):
        new_state(setting.params, there, setting.from_source(), setting.batch, torch.float32)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        (
            {"arch": "trm_singlez"},
            ParamsError,
            "model.arch must be trm, as in train.init_from.model .* Got trm_singlez",
        ),
        ({"hidden_size": 32}, DataError, r"L.0.mlp.down.weight should have shape \(32, 256\). Got \(16, 256\)"),
        ({"mlp_t": False}, DataError, r"networks.L.0.mix.down.weight should have shape None. Got \(17, 256\)"),
        ({"L_layers": 2}, DataError, r"networks.L.1.mix.down.weight should have shape \(17, 256\). Got None"),
    ],
)
def test_another_architecture(setting: Setting, changes: dict[str, object], error: type[UserError], words: str) -> None:
    with pytest.raises(error, match=words):
        params = setting.params.model_copy(update=changes)
        new_state(params, setting.meta, setting.from_source(), setting.batch, torch.float32)


def test_another_dataset(setting: Setting) -> None:
    wider = setting.meta.model_copy(update={"width": 5})
    with pytest.raises(UserError, match="should have 20 cells and 6 tokens, like the dataset. Got 16 and 6"):
        new_state(setting.params, wider, setting.from_source(), setting.batch, torch.float32)


def test_another_digest(setting: Setting) -> None:
    settings = setting.from_source()
    setting.file.write_bytes(setting.file.read_bytes() + b"\0")
    with pytest.raises(UserError, match=f"train.init_from.sha256 must be {file_digest(setting.file)}"):
        new_state(setting.params, setting.meta, settings, setting.batch, torch.float32)
    setting.file.unlink()
    with pytest.raises(DataError, match="no such file"):
        new_state(setting.params, setting.meta, settings, setting.batch, torch.float32)


def test_freezing_needs_a_network_and_a_table(setting: Setting) -> None:
    values = setting.settings.model_dump() | {"freeze_weights": True, "init_from": None}
    with pytest.raises(ParamsError, match="init_from must name a trained model if freeze_weights is true. Got null"):
        parse(TrainParams, values, "train")
    bare = setting.params.model_copy(update={"puzzle_emb_ndim": 0, "puzzle_emb_len": 0})
    model = build_model(bare, setting.meta)
    save_checkpoint(setting.file, model, ema_copy(model), {})
    with pytest.raises(UserError, match="train.freeze_weights must be false if model.puzzle_emb_ndim is 0"):
        new_state(bare, setting.meta, setting.from_source(freeze_weights=True), setting.batch, torch.float32)


def test_training_with_frozen_weights(setting: Setting, dataset: Path, tmp_path: Path) -> None:
    """Only the embedding vector changes; the result is a complete model."""
    model = build_model(setting.params, read_meta(dataset), seed=3)
    save_checkpoint(setting.file, model, ema_copy(model), {})
    out = tmp_path / "out"
    out.mkdir()
    train(setting.params, setting.from_source(freeze_weights=True), dataset, out, "key")
    for weights in ("ema", "raw"):
        trained, _ = load_checkpoint(out, weights=weights)
        assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), model.parameters(), strict=True))
        assert not torch.equal(trained.puzzle_table, model.puzzle_table)
