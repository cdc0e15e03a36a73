"""Parity with the published code: its weights in our model give its logits, halting, losses and gradients."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from trm import DataError, ParamsError, export_published, import_published
from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.datasets.arc import dataset as arc
from trm.datasets.maze import dataset as maze
from trm.models.act import TRM, build_model
from trm.models.conversion import published_keys, settings_from_arch
from trm.models.published_files import read_published
from trm.training.losses import LOSSES, METRICS, step_metrics, supervision_loss

Golden = Any


@pytest.fixture(params=["trm_att", "trm_mlp_t"])
def golden(goldens: Path, request: pytest.FixtureRequest) -> Golden:
    return np.load(goldens / f"{request.param}.npz")


def _import(golden: Golden, **changes: object) -> TRM:
    arch = json.loads(str(golden["config_json"])) | {"name": str(golden["model"])} | changes
    weights = {key[3:]: torch.from_numpy(golden[key]) for key in golden.files if key.startswith("sd/")}
    return import_published(weights, arch)


def _batch(golden: Golden, name: str) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(golden[f"{name}/{key}"]) for key in ("inputs", "labels", "puzzle_identifiers")}


def _difference(ours: torch.Tensor, theirs: np.ndarray) -> float:
    return float(np.abs(ours.detach().float().numpy() - theirs).max())


def test_training_steps(golden: Golden) -> None:
    model = _import(golden).train()
    carry = model.initial_carry(_batch(golden, "train_batch1"))
    for step, (tolerance, loss_tolerance) in {1: (1e-4, 1e-5), 2: (3e-4, 1e-4), 3: (5e-4, 1e-4)}.items():
        carry, out = model.supervision_step(carry, _batch(golden, f"train_batch{step}"))
        at = f"train/step{step}"
        assert _difference(out.logits, golden[f"{at}/logits"]) < tolerance
        assert _difference(out.halt_logit, golden[f"{at}/q_halt_logits"]) < tolerance
        assert _difference(out.continue_logit, golden[f"{at}/q_continue_logits"]) < tolerance
        assert carry.halted.tolist() == golden[f"{at}/halted"].tolist()
        assert carry.steps.tolist() == golden[f"{at}/steps"].tolist()
        assert carry.inputs.tolist() == golden[f"{at}/current_inputs"].tolist()
        losses = supervision_loss(carry, out, "stablemax", 4)
        assert losses.total.item() * 4 == pytest.approx(golden[f"{at}/loss"].item(), rel=loss_tolerance)
        sums = dict(zip(LOSSES, losses.sums.tolist(), strict=True))
        assert sums["token_loss"] == pytest.approx(golden[f"{at}/metrics/lm_loss"].item(), rel=loss_tolerance)
        assert sums["halt_loss"] == pytest.approx(golden[f"{at}/metrics/q_halt_loss"].item(), rel=loss_tolerance)
        metrics = dict(zip(METRICS, step_metrics(carry, out).tolist(), strict=True))
        theirs = {"cell_accuracy": "accuracy", "halt_accuracy": "q_halt_accuracy"}
        for name, value in metrics.items():
            assert value == pytest.approx(golden[f"{at}/metrics/{theirs.get(name, name)}"].item(), abs=1e-3)


@pytest.mark.parametrize("kind", ["stablemax", "softmax"])
def test_gradients(golden: Golden, kind: str) -> None:
    model = _import(golden).train()
    batch = _batch(golden, "train_batch1")
    carry, out = model.supervision_step(model.initial_carry(batch), batch)
    losses = supervision_loss(carry, out, kind, 4)
    at = "train/step1" if kind == "stablemax" else "softmax/step1"
    assert losses.total.item() * 4 == pytest.approx(golden[f"{at}/loss"].item(), rel=1e-5)
    losses.total.backward()
    ours = {theirs: name for name, theirs in published_keys(model).items()}
    keys = [key for key in golden.files if key.startswith(f"{at}/grad/")]
    assert len(keys) == (2 if kind == "softmax" else len(list(model.parameters())))
    for key in keys:
        gradient = model.get_parameter(ours[key.removeprefix(f"{at}/grad/")]).grad
        assert gradient is not None
        assert _difference(gradient, golden[key]) < 2e-4 * np.abs(golden[key]).max(), key
    assert out.puzzle_rows.grad is not None
    local = golden[f"{at}/grad_puzzle_emb_local"]
    assert _difference(out.puzzle_rows.grad, local) < 2e-4 * np.abs(local).max()


def test_evaluation_steps(golden: Golden) -> None:
    model = _import(golden).eval()
    batch = _batch(golden, "eval_batch")
    carry, out = model.initial_carry(batch), None
    for step in range(1, 17):
        carry, out = model.supervision_step(carry, batch)
        tolerance = 1e-4 if step == 1 else 2e-4 if step == 2 else 2e-3
        if step in (1, 2, 4, 8, 16):
            assert _difference(out.logits, golden[f"eval/step{step}/logits"]) < tolerance
        assert _difference(out.halt_logit, golden[f"eval/step{step}/q_halt_logits"]) < tolerance
        assert carry.halted.all().item() == (step == 16)
    assert out is not None
    metrics = dict(zip(METRICS, step_metrics(carry, out).tolist(), strict=True))
    assert metrics["count"] == golden["eval/step16/metrics/count"].item() == 3  # the padding row is not counted
    assert metrics["exact_accuracy"] == golden["eval/step16/metrics/exact_accuracy"].item()


def test_bfloat16_is_close(golden: Golden) -> None:
    model = _import(golden, forward_dtype="bfloat16").train()
    batch = _batch(golden, "train_batch1")
    carry, out = model.supervision_step(model.initial_carry(batch), batch)
    assert _difference(out.logits, golden["bf16/step1/logits"]) < 0.5
    loss = supervision_loss(carry, out, "stablemax", 4).total.item() * 4
    assert loss == pytest.approx(golden["bf16/step1/loss"].item(), rel=0.03)


def test_export_restores_published_keys(golden: Golden) -> None:
    exported = export_published(_import(golden))
    theirs = {key[3:]: golden[key] for key in golden.files if key.startswith("sd/")}
    assert set(exported) == set(theirs)
    assert all(np.array_equal(exported[key].numpy(), theirs[key]) for key in theirs)


# The following tests need no goldens: they export a model to the published format.

ARCH = {
    "name": "recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1",
    "hidden_size": 16,
    "num_heads": 2,
    "L_layers": 1,
    "H_layers": 0,
    "expansion": 1,
    "H_cycles": 2,
    "L_cycles": 2,
    "mlp_t": False,
    "pos_encodings": "rope",
    "puzzle_emb_ndim": 20,
    "halt_exploration_prob": 0.1,
    "forward_dtype": "float32",
    "seq_len": 16,
    "vocab_size": 6,
    "num_puzzle_identifiers": 3,
    "batch_size": 768,
    "causal": False,
}


@pytest.fixture
def published(model_params: ModelParams, meta: DatasetMeta) -> dict[str, torch.Tensor]:
    changes = {
        "mlp_t": False,
        "pos_encodings": "rope",
        "puzzle_emb_ndim": 20,
        "puzzle_emb_len": 2,
        "halt_max_steps": 16,
    }
    model = build_model(model_params.model_copy(update=changes), meta.model_copy(update={"num_identifiers": 3}), seed=5)
    return export_published(model)


@pytest.mark.parametrize("prefix", ["", "_orig_mod.model.", "model._orig_mod.", "module."])
def test_prefixes_and_defaults(published: dict[str, torch.Tensor], prefix: str) -> None:
    model = import_published({prefix + key: value for key, value in published.items()}, ARCH)
    assert model.config.puzzle_emb_len == 2  # ceil(20 / 16)
    assert (model.config.halt_max_steps, model.config.q_continue_loss) == (16, False)
    assert model.meta.name == "sudoku"
    assert all(torch.equal(value, published[key]) for key, value in export_published(model).items())


def test_missing_sizes_are_read_from_the_dataset(published: dict[str, torch.Tensor], meta: DatasetMeta) -> None:
    arch = {key: value for key, value in ARCH.items() if key not in ("seq_len", "vocab_size", "num_puzzle_identifiers")}
    with pytest.raises(ParamsError, match="arch.seq_len is missing; give the dataset"):
        import_published(published, arch)
    model = import_published(published, arch, meta.model_copy(update={"num_identifiers": 3}))
    assert model.puzzle_table.shape == (3, 20)
    with pytest.raises(ParamsError, match="arch.vocab_size must be 6, as in the dataset. Got 7"):
        import_published(published, ARCH | {"vocab_size": 7}, meta.model_copy(update={"num_identifiers": 3}))


def test_dataset_is_inferred_from_sizes() -> None:
    def found(L: int, V: int, identifiers: int = 1) -> DatasetMeta:
        sizes = {"seq_len": L, "vocab_size": V, "num_puzzle_identifiers": identifiers}
        return settings_from_arch(ARCH | sizes, None)[1]

    for side in (5, 6, 30):
        assert found(side * side, 6) == maze.maze_meta(side)
    words = {"height": 30, "width": 30, "vocabulary": arc.VOCABULARY, "num_identifiers": 876406}
    assert found(900, 12, 876406) == DatasetMeta(name="arc", **words)
    for side in (4, 6, 9):
        assert found(side * side, side + 2).name == "sudoku"
    for L, V in ((899, 6), (899, 12), (36, 12), (900, 11), (81, 10), (49, 9)):
        meta = found(L, V)
        assert (meta.name, meta.height, meta.width, meta.vocab_size) == ("tokens", 1, L, V)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "recursive_reasoning.urm@URM"}, "arch.name: 'urm' cannot be imported; only trm, trm_singlez, "),
        ({"num_heads": 3}, "hidden_size must be a multiple of num_heads"),
        ({"puzzle_emb_ndim": 33, "puzzle_emb_len": 2}, "puzzle_emb_ndim must be at most"),
        ({"forward_dtype": "float16"}, "arch.forward_dtype must be float32 or bfloat16"),
    ],
)
def test_invalid_arch_settings(published: dict[str, torch.Tensor], changes: dict[str, object], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        import_published(published, ARCH | changes)


def test_mismatched_tensors(published: dict[str, torch.Tensor]) -> None:
    with pytest.raises(DataError, match="unknown tensor inner.extra"):
        import_published(published | {"model.inner.extra": torch.zeros(1)}, ARCH)
    with pytest.raises(DataError, match=r"inner.puzzle_emb.weights should have shape \(4, 20\). Got \(3, 20\)"):
        import_published(published, ARCH | {"num_puzzle_identifiers": 4})
    del published["inner.H_init"]
    with pytest.raises(DataError, match="inner.H_init is missing"):
        import_published(published, ARCH)


def test_reading_the_two_files(published: dict[str, torch.Tensor], tmp_path: Path) -> None:
    file = tmp_path / "step_65104"
    with pytest.raises(
        DataError, match="no such file; a published checkpoint and its all_config.yaml are in one folder"
    ):
        read_published(file)
    torch.save(published, file)
    YAML().dump({"arch": ARCH, "epochs": 50000}, tmp_path / "all_config.yaml")
    weights, arch = read_published(file)
    assert import_published(weights, arch).config.hidden_size == 16
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(DataError, match="not a PyTorch state dict"):
        read_published(file)
    torch.save({"weights": print}, file)  # checkpoints with executable code are rejected
    with pytest.raises(DataError, match="not a PyTorch state dict"):
        read_published(file)
