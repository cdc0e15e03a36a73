"""Methods of training in addition to the published ones: each option, and random combinations of all of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.config.training import AdamAtan2Params, AdamWParams, DepthParams, MuonParams, TrainParams
from trm.data.batches import START, collate
from trm.data.parquet import read_meta, read_split
from trm.models.model_summary import flops
from trm.models.variants import VARIANTS
from trm.training import step as one_step
from trm.training.cost import training_operations
from trm.training.distributed import SINGLE_PROCESS
from trm.training.step import new_state, train_step
from trm.training.train_state import TrainState, load_state, save_state
from trm.training.validation import to_tensors


def test_the_options_of_the_loss_are_used(
    dataset: Path, model_params: ModelParams, train_params: TrainParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = to_tensors(collate(read_split(dataset / "train"), np.array([0, 4, 8, 12])), torch.device("cpu"))
    seen: list[dict[str, object]] = []
    real = one_step.supervision_loss

    def recorded(*args: object, **options: object) -> object:
        seen.append(options)
        return real(*args, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(one_step, "supervision_loss", recorded)
    changes = {"label_smoothing": 0.2, "halt_loss_weight": 0.05, "step_loss_decay": 0.7, "max_grad_norm": 1e-3}
    settings = train_params.model_copy(update=changes)
    state = new_state(model_params, read_meta(dataset), settings, batch, torch.float32)
    train_step(state, state.model, batch, START, settings, 10)
    assert (seen[0]["label_smoothing"], seen[0]["halt_loss_weight"]) == (0.2, 0.05)
    weights = seen[0]["slot_weights"]
    assert isinstance(weights, torch.Tensor)
    assert weights.tolist() == pytest.approx([4 / (1 + 0.7 + 0.7**2 + 0.7**3)] * 4)  # all slots are in step 1 of 4
    gradients = [weight.grad.flatten() for weight in state.model.parameters() if weight.grad is not None]
    assert torch.cat(gradients).norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_depth_schedule(dataset: Path, model_params: ModelParams, train_params: TrainParams) -> None:
    """10 steps: 1 round of 1 pass until step 3, 2 rounds of 1 until step 6, then the model's 2 rounds of 2."""
    batch = to_tensors(collate(read_split(dataset / "train"), np.array([0, 4, 8, 12])), torch.device("cpu"))
    parts = (DepthParams(until=0.3, H_cycles=1, L_cycles=1), DepthParams(until=0.6, H_cycles=2, L_cycles=1))
    settings = train_params.model_copy(update={"depth_schedule": parts, "micro_batch_size": 2})
    state = new_state(model_params, read_meta(dataset), settings, batch, torch.float32)
    passes, net = [0], state.model.net

    def counted(*args: object) -> object:
        passes[-1] += 1
        return net(*args)  # pyright: ignore[reportArgumentType]

    vars(state.model)["net"] = counted
    for _ in range(10):
        train_step(state, state.model, batch, START, settings, 10)
        passes.append(0)
    # Two micro-batches; a round has one pass more, for the answer.
    assert passes[:-1] == [2 * 2] * 3 + [2 * 2 * 2] * 3 + [2 * 2 * 3] * 4
    assert state.model.config == state.average.config == model_params


def test_each_optimizer_has_its_learning_rate_in_the_schedule(
    dataset: Path, model_params: ModelParams, train_params: TrainParams
) -> None:
    """Step 1 of 4 warm-up steps: a quarter of either rate."""
    adam = AdamWParams(name="adamw", beta1=0.9, beta2=0.95, weight_decay=0.1)
    muon = MuonParams(name="muon", lr=0.02, momentum=0.95, weight_decay=0.005, others=adam)
    optimizer = train_params.optimizer.model_copy(update={"network": muon})
    changed = train_params.model_copy(update={"optimizer": optimizer, "lr_warmup_steps": 4})
    batch = to_tensors(collate(read_split(dataset / "train"), np.array([0, 4, 8, 12])), torch.device("cpu"))
    state = new_state(model_params, read_meta(dataset), changed, batch, torch.float32)
    train_step(state, state.model, batch, START, changed, 10)
    rates = [group["lr"] for each in state.optimizers for group in each.param_groups]
    assert rates == pytest.approx([0.02 / 4, train_params.lr / 4])


def test_operations_of_a_depth_schedule(
    model_params: ModelParams, train_params: TrainParams, meta: DatasetMeta
) -> None:
    """40 % of the steps with 1 round of 1 pass, the rest with the model's 2 rounds of 2."""
    parts = (DepthParams(until=0.4, H_cycles=1, L_cycles=1),)
    shallow = flops(model_params.model_copy(update={"H_cycles": 1, "L_cycles": 1}), meta)[1]
    full = flops(model_params, meta)[1]
    changed = train_params.model_copy(update={"depth_schedule": parts})
    assert training_operations(model_params, train_params, meta, 10) == 10 * 4 * full
    assert training_operations(model_params, changed, meta, 10) == pytest.approx(4 * 4 * shallow + 6 * 4 * full)
    assert shallow < 0.7 * full


ADAM = st.builds(
    AdamAtan2Params,
    name=st.just("adam_atan2"),
    beta1=st.just(0.9),
    beta2=st.just(0.95),
    weight_decay=st.sampled_from([0.0, 0.1]),
    fused=st.just(False),
) | st.builds(
    AdamWParams,
    name=st.just("adamw"),
    beta1=st.just(0.9),
    beta2=st.just(0.95),
    weight_decay=st.sampled_from([0.0, 0.1]),
)
MUON = st.builds(
    MuonParams, name=st.just("muon"), lr=st.just(0.02), momentum=st.just(0.95), weight_decay=st.just(0.005), others=ADAM
)
DEPTH = st.lists(st.tuples(st.integers(1, 2), st.integers(1, 3)), max_size=2).map(
    lambda depths: tuple(
        DepthParams(until=0.4 * number, H_cycles=rounds, L_cycles=passes)
        for number, (rounds, passes) in enumerate(depths, 1)
    )
)
OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "label_smoothing": st.sampled_from([0.0, 0.2]),
    "halt_loss_weight": st.sampled_from([0.0, 0.05, 0.5]),
    "step_loss_decay": st.sampled_from([0.7, 1.0]),
    "max_grad_norm": st.sampled_from([None, 0.1]),
    "depth_schedule": DEPTH,
    "loss": st.sampled_from(["stablemax", "softmax"]),
    "micro_batch_size": st.sampled_from([None, 3]),
    "network": ADAM | MUON,
}
NETWORKS: dict[str, st.SearchStrategy[Any]] = {
    "arch": st.sampled_from(list(VARIANTS)),
    "mlp_t": st.booleans(),
    "q_continue_loss": st.booleans(),
    "pos_encodings": st.sampled_from(["rope", "learned", "none"]),
}


@given(options=st.fixed_dictionaries(OPTIONS), network=st.fixed_dictionaries(NETWORKS))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_combinations_train_and_resume(
    dataset: Path,
    model_params: ModelParams,
    train_params: TrainParams,
    tmp_path: Path,
    options: dict[str, Any],
    network: dict[str, Any],
) -> None:
    """Two steps; the second one also from the state that was saved after the first. All tensors are equal."""
    params = model_params.model_copy(update=network)
    optimizer = train_params.optimizer.model_copy(update={"network": options.pop("network")})
    changed = train_params.model_copy(update={**options, "optimizer": optimizer})
    batch = to_tensors(collate(read_split(dataset / "train"), np.array([0, 4, 8, 12])), torch.device("cpu"))

    def start() -> TrainState:
        return new_state(params, read_meta(dataset), changed, batch, torch.float32)

    def step(state: TrainState) -> None:
        train_step(state, state.model, batch, START, changed, 2)

    whole, resumed = start(), start()
    step(whole)
    save_state(tmp_path, whole, [], SINGLE_PROCESS)
    assert load_state(tmp_path, resumed, [], SINGLE_PROCESS)
    for state in (whole, resumed):
        step(state)
    for tensors in (TrainState.tensors, TrainState.optimizer_tensors, lambda state: state.carry.tensors()):
        ours, theirs = tensors(whole), tensors(resumed)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) and tensor.isfinite().all() for name, tensor in ours.items())
    moments = {name.rsplit(".", 1)[1] for name in whole.optimizer_tensors()}
    assert ("momentum_buffer" in moments) is (changed.optimizer.network.name == "muon")
