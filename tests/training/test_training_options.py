"""Methods of training in addition to the published ones: each option, and random combinations of all of them."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.config.training import AdamAtan2Params, AdamWParams, DepthParams, MuonParams, TrainParams
from trm.data.batches import START, collate
from trm.data.parquet import read_meta, read_split
from trm.models.conversion import arch_of, export_published, import_published
from trm.models.model_summary import flops
from trm.models.recursion import States
from trm.models.variants import VARIANTS
from trm.training import step as one_step
from trm.training import trainer
from trm.training.checkpoint import FILE, load_checkpoint, save_checkpoint
from trm.training.cost import training_operations
from trm.training.distributed import SINGLE_PROCESS
from trm.training.losses import supervision_loss
from trm.training.state_folder import StateFolder
from trm.training.step import new_state, train_step
from trm.training.train_state import TrainState, load_state, snapshot
from trm.training.trainer import train
from trm.training.validation import to_tensors, validate
from trm.utils.errors import UserError


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
    changes = {"label_smoothing": 0.2, "halt_loss_weight": 0.05, "max_grad_norm": 1e-3}
    settings = train_params.model_copy(update=changes)
    state = new_state(model_params, read_meta(dataset), settings, batch, torch.float32)
    train_step(state, state.model, batch, START, settings, 10)
    assert (seen[0]["label_smoothing"], seen[0]["halt_loss_weight"]) == (0.2, 0.05)
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
    assert training_operations(model_params, changed, meta, 10, 0.5) == pytest.approx(4 * 4 * shallow + 1 * 4 * full)
    assert training_operations(model_params, changed, meta, 10, 0.3) == pytest.approx(3 * 4 * shallow)
    assert shallow < 0.7 * full


def test_winner_takes_all(dataset: Path, model_params: ModelParams, train_params: TrainParams) -> None:
    """Of three starts of each sequence the one with the lowest loss is trained: the gradient is that of a step with
    only these starts.
    """
    meta = read_meta(dataset)
    params = model_params.model_copy(update={"random_start": "latents"})
    changed = train_params.model_copy(update={"winner_takes_all": 3})
    batch = to_tensors(collate(read_split(dataset / "train"), np.array([0, 4, 8, 12])), torch.device("cpu"))
    state = new_state(params, meta, changed, batch, torch.float32)
    before = copy.deepcopy(state)
    loss = train_step(state, state.model, batch, START, changed, 10)

    # The same by hand: all starts, then the best one of each sequence.
    model, starts = before.model, {}
    repeated = {name: values.repeat_interleave(3, 0) for name, values in batch.items()}
    real = model.initial_states

    def recorded(batch_size: int, generator: torch.Generator | None = None) -> States:
        starts.update(real(batch_size, generator))
        return dict(starts)

    vars(model)["initial_states"] = recorded
    noise = one_step.noise_generator(model, changed.seed, 1, 0)
    with torch.no_grad():
        carry, out = model(before.carry, repeated, torch.ones(12), noise)
    losses = [
        supervision_loss(carry.part(slice(i, i + 1)), out.at(torch.tensor([i])), "stablemax", 1) for i in range(12)
    ]
    token_losses = torch.stack([each.sums[1] for each in losses]).view(4, 3)
    best = token_losses.argmin(1) + 3 * torch.arange(4)
    assert len(token_losses.unique()) > 6  # the starts differ
    vars(model)["initial_states"] = lambda *_: {name: value[best] for name, value in starts.items()}
    carry, out = model(model.initial_carry(batch), batch, torch.ones(4))
    expected = supervision_loss(carry, out, "stablemax", 4).total
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = torch.autograd.grad(expected, list(model.networks.parameters()))
    for weight, gradient in zip(state.model.networks.parameters(), gradients, strict=True):
        assert weight.grad is not None
        assert torch.allclose(weight.grad, gradient, atol=1e-5)


def test_all_starts_of_a_sequence_take_their_next_example_together(
    dataset: Path, model_params: ModelParams, train_params: TrainParams
) -> None:
    params = model_params.model_copy(update={"random_start": "all", "halt_max_steps": 3})
    changed = train_params.model_copy(update={"winner_takes_all": 2})
    split = read_split(dataset / "train")
    state = None
    for step in range(8):
        batch = to_tensors(collate(split, np.array([0, 4, 8, 12]) + step % 4), torch.device("cpu"))
        state = state or new_state(params, read_meta(dataset), changed, batch, torch.float32)
        with torch.no_grad():  # halting decisions of single starts, at random
            assert state.model.q_head.bias is not None
            state.model.q_head.bias[0] = 0
            state.model.q_head.weight[0].normal_(generator=torch.Generator().manual_seed(step))
        train_step(state, state.model, batch, START, changed, 10)
        pairs = state.carry.inputs.view(4, 2, -1), state.carry.steps.view(4, 2), state.carry.halted.view(4, 2)
        for pair in pairs:
            assert torch.equal(pair[:, 0], pair[:, 1])
        assert not torch.equal(state.carry.states["z"][0], state.carry.states["z"][1])


def test_the_batches_of_a_pool_are_trained_in_turn(
    dataset: Path, model_params: ModelParams, train_params: TrainParams
) -> None:
    """Two batches of four sequences and five steps: three of the first batch, two of the second."""
    changed = train_params.model_copy(update={"carry_pool": 2, "micro_batch_size": 3})
    split = read_split(dataset / "train")
    batches = [to_tensors(collate(split, np.array([0, 4, 8, 12]) + step), torch.device("cpu")) for step in range(5)]
    state = new_state(model_params, read_meta(dataset), changed, batches[0], torch.float32)
    for batch in batches:
        train_step(state, state.model, batch, START, changed, 10)
    assert state.carry.steps.tolist() == [3] * 4 + [2] * 4
    assert torch.equal(state.carry.inputs, torch.cat((batches[0]["inputs"], batches[1]["inputs"])))


def test_several_starts_need_noise(dataset: Path, model_params: ModelParams, train_params: TrainParams) -> None:
    batch = to_tensors(collate(read_split(dataset / "train"), np.array([0, 4])), torch.device("cpu"))
    with pytest.raises(UserError, match=r"train.winner_takes_all must be 1 .* Got 4; or set model.random_start"):
        new_state(
            model_params,
            read_meta(dataset),
            train_params.model_copy(update={"winner_takes_all": 4}),
            batch,
            torch.float32,
        )


@pytest.mark.parametrize(
    "changes", [{"online_augmentation": True, "max_hints": 0.5}, {"max_hints": 1.0, "final_max_hints": 0.5}]
)
def test_online_augmentation_resumes(
    changes: dict[str, Any], dataset: Path, model_params: ModelParams, train_params: TrainParams, tmp_path: Path
) -> None:
    """Interrupted after step 13 of 40: the same model, and another one than without the changes of examples."""
    changed = train_params.model_copy(update={**changes, "checkpoint_interval": 13})
    outs = {name: tmp_path / name for name in ("whole", "resumed", "plain")}
    for out in outs.values():
        out.mkdir()
    train(model_params, changed, dataset, outs["whole"], "whole")
    with pytest.MonkeyPatch.context() as patch:
        real = trainer.train_step

        def interrupting(state: TrainState, *args: Any) -> torch.Tensor:  # noqa: ANN401 - the arguments of `train_step`
            if state.step == 13:
                raise KeyboardInterrupt
            return real(state, *args)

        patch.setattr(trainer, "train_step", interrupting)
        with pytest.raises(KeyboardInterrupt):
            train(model_params, changed, dataset, outs["resumed"], "resumed")
    train(model_params, changed, dataset, outs["resumed"], "resumed")
    train(model_params, train_params, dataset, outs["plain"], "plain")
    whole, resumed, plain = (load_file(out / "checkpoint.safetensors") for out in outs.values())
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    assert not all(torch.equal(tensor, plain[name]) for name, tensor in whole.items())


def test_datasets_that_cannot_be_augmented_in_training_are_refused(
    dataset: Path, model_params: ModelParams, train_params: TrainParams, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(trainer, "get_augmentation", lambda _: None)
    changed = train_params.model_copy(update={"online_augmentation": True})
    with pytest.raises(UserError, match="train.online_augmentation must be false for dataset sudoku"):
        train(model_params, changed, dataset, tmp_path, "key")


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
    "max_grad_norm": st.sampled_from([None, 0.1]),
    "depth_schedule": DEPTH,
    "loss": st.sampled_from(["stablemax", "softmax"]),
    "micro_batch_size": st.sampled_from([None, 3]),
    "network": ADAM | MUON,
    "winner_takes_all": st.sampled_from([1, 2]),
    "carry_pool": st.sampled_from([1, 3]),
    "max_hints": st.sampled_from([0.0, 0.5]),
    "final_max_hints": st.sampled_from([0.0, 0.25]),
}
NETWORKS: dict[str, st.SearchStrategy[Any]] = {
    "arch": st.sampled_from(list(VARIANTS)),
    "mlp_t": st.booleans(),
    "q_continue_loss": st.booleans(),
    "pos_encodings": st.sampled_from(["rope", "rope_2d", "learned", "none"]),
    "swiglu": st.sampled_from(["swiglu", "normed"]),
    "register_tokens": st.integers(0, 2),
    "random_start": st.sampled_from(["none", "latents", "all"]),
    "update_damping": st.sampled_from([0.0, 0.05]),
    "update_noise": st.sampled_from([0.0, 0.01]),
    "gradient_passes": st.sampled_from([None, 1, 4]),
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
    """Two steps; the second one also from the state that was saved after the first. All tensors are equal.

    Then the model is evaluated, saved and loaded, and exported, if the published code has all of its options.
    """
    params = ModelParams(**{**model_params.model_dump(), **network, "num_heads": 4})
    optimizer = train_params.optimizer.model_copy(update={"network": options.pop("network")})
    changed = train_params.model_copy(update={**options, "optimizer": optimizer})
    batch = to_tensors(collate(read_split(dataset / "train"), np.array([0, 4, 8, 12])), torch.device("cpu"))

    def start() -> TrainState:
        return new_state(params, read_meta(dataset), changed, batch, torch.float32)

    def step(state: TrainState) -> None:
        train_step(state, state.model, batch, START, changed, 2)

    if changed.winner_takes_all > 1 and not VARIANTS[params.arch].random_states(params.random_start):
        with pytest.raises(UserError, match="winner_takes_all"):
            start()
        return
    whole, resumed = start(), start()
    step(whole)
    save_state = snapshot(whole, [], SINGLE_PROCESS)
    assert save_state
    save_state(StateFolder(tmp_path))
    assert load_state(StateFolder(tmp_path), resumed, [], SINGLE_PROCESS)
    for state in (whole, resumed):
        step(state)
    for tensors in (TrainState.tensors, TrainState.optimizer_tensors, lambda state: state.carry.tensors()):
        ours, theirs = tensors(whole), tensors(resumed)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) and tensor.isfinite().all() for name, tensor in ours.items())
    moments = {name.rsplit(".", 1)[1] for name in whole.optimizer_tensors()}
    assert ("momentum_buffer" in moments) is (changed.optimizer.network.name == "muon")

    scores = validate(whole.average, read_split(dataset / "validation"), 4, 2)
    save_checkpoint(tmp_path / FILE, whole.model, whole.average, {})
    loaded, _ = load_checkpoint(tmp_path)
    assert validate(loaded, read_split(dataset / "validation"), 8, 2) == pytest.approx(scores)
    try:
        published = import_published(export_published(loaded), arch_of(loaded), loaded.meta)
    except UserError as error:
        assert "to export" in str(error) and "\n" not in str(error)
    else:
        assert all(
            torch.equal(*answers) for answers in zip(loaded.answer(batch, 2), published.answer(batch, 2), strict=True)
        )
