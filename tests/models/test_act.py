import pytest
import torch

from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.models.act import TRM, build_model, draw_min_steps

Batch = dict[str, torch.Tensor]


def _batch(first_token: int, size: int = 3) -> Batch:
    return {
        "inputs": torch.full((size, 16), first_token, dtype=torch.int32),
        "labels": torch.full((size, 16), first_token + 1, dtype=torch.int32),
        "puzzle_identifiers": torch.zeros(size, dtype=torch.int32),
    }


@pytest.fixture
def model(model_params: ModelParams, meta: DatasetMeta) -> TRM:
    return build_model(model_params.model_copy(update={"halt_exploration_prob": 0.0}), meta)


def _always_halts(model: TRM, logit: float) -> None:
    assert model.q_head.bias is not None
    with torch.no_grad():
        model.q_head.bias[0] = logit


def test_initial_carry_is_halted_without_examples(model: TRM) -> None:
    carry = model.initial_carry(_batch(2))
    assert carry.halted.all()
    assert carry.steps.tolist() == [0, 0, 0]
    assert (carry.labels == -100).all()


def test_slots_keep_their_example_until_they_halt(model: TRM) -> None:
    model.train()  # the halt logit is -5: no sequence halts before step 4
    carry = model.initial_carry(_batch(2))
    for step in range(1, 5):
        carry, _ = model.supervision_step(carry, _batch(2 if step == 1 else 3))
        assert carry.steps.tolist() == [step] * 3
        assert (carry.inputs == 2).all()
        assert (carry.labels == 3).all()
        assert carry.halted.tolist() == [step == 4] * 3
    carry, _ = model.supervision_step(carry, _batch(3))
    assert (carry.inputs == 3).all()
    assert carry.steps.tolist() == [1, 1, 1]


def test_restarted_slot_equals_new_slot(model: TRM) -> None:
    model.eval()
    carry = model.initial_carry(_batch(2))
    for _ in range(4):
        carry, _ = model.supervision_step(carry, _batch(2))
    carry, again = model.supervision_step(carry, _batch(3))
    _, fresh = model.supervision_step(model.initial_carry(_batch(3)), _batch(3))
    assert torch.equal(again.logits, fresh.logits)


def test_training_halts_on_the_halt_logit_and_eval_does_not(model: TRM) -> None:
    _always_halts(model, 0.1)
    carry, _ = model.train().supervision_step(model.initial_carry(_batch(2)), _batch(2))
    assert carry.halted.all()
    carry, _ = model.eval().supervision_step(model.initial_carry(_batch(2)), _batch(2))
    assert not carry.halted.any()
    _always_halts(model, 0.0)  # greater than 0 halts, 0 itself does not
    carry, _ = model.train().supervision_step(model.initial_carry(_batch(2)), _batch(2))
    assert not carry.halted.any()


def test_exploration_delays_halting(model: TRM) -> None:
    _always_halts(model, 1.0)
    model.train()
    carry = model.initial_carry(_batch(2))
    carry, _ = model.supervision_step(carry, _batch(2), min_steps=torch.tensor([1, 2, 4]))
    assert carry.halted.tolist() == [True, False, False]
    carry, _ = model.supervision_step(carry, _batch(3), min_steps=torch.tensor([1, 2, 4]))
    assert carry.halted.tolist() == [True, True, False]
    assert carry.steps.tolist() == [1, 2, 2]
    assert carry.inputs[:, 0].tolist() == [3, 2, 2]


def test_min_steps_are_drawn_from_2_to_the_maximum(model_params: ModelParams) -> None:
    drawn = draw_min_steps(model_params, 20_000, torch.Generator().manual_seed(0))
    share = {value: (drawn == value).float().mean().item() for value in range(6)}
    assert share[0] == share[5] == 0
    assert share[1] == pytest.approx(0.9, abs=0.01)
    for value in (2, 3, 4):
        assert share[value] == pytest.approx(0.1 / 3, abs=0.005)


def test_states_are_detached_between_steps(model: TRM) -> None:
    carry, out = model.train().supervision_step(model.initial_carry(_batch(2)), _batch(2))
    assert not any(state.requires_grad for state in carry.states.values())
    assert out.logits.requires_grad


def test_continue_loss_halts_against_the_continue_logit(model_params: ModelParams, meta: DatasetMeta) -> None:
    params = model_params.model_copy(update={"q_continue_loss": True, "halt_exploration_prob": 0.0})
    model = build_model(params, meta).train()
    assert model.q_head.bias is not None
    with torch.no_grad():
        model.q_head.bias.copy_(torch.tensor([-1.0, -2.0]))
    carry, out = model.supervision_step(model.initial_carry(_batch(2)), _batch(2))
    assert carry.halted.all()  # -1 > -2, although the halt logit is negative
    # Not the last step: the target is the greater of the next two logits, here constants.
    assert out.continue_target is not None
    assert out.continue_target.tolist() == pytest.approx([1 / (1 + 2.718281828)] * 3)
    assert not out.continue_target.requires_grad
    with torch.no_grad():
        model.q_head.bias.copy_(torch.tensor([-3.0, -2.0]))
    carry = model.initial_carry(_batch(2))
    for step in range(1, 5):
        carry, out = model.supervision_step(carry, _batch(2))
        assert out.continue_target is not None
        # The target of the last step (4) is the next halt logit (-3), that of the others the maximum (-2).
        expected = 1 / (1 + 2.718281828 ** (3 if step == 4 else 2))
        assert out.continue_target.tolist() == pytest.approx([expected] * 3)


def test_answer_equals_single_steps(model: TRM) -> None:
    model.eval()
    with torch.no_grad():
        model.q_head.weight.normal_(generator=torch.Generator().manual_seed(3))
        assert model.q_head.bias is not None
        model.q_head.bias.zero_()
    batch = _batch(2)
    batch["inputs"] = torch.randint(1, 6, (3, 16), generator=torch.Generator().manual_seed(1)).int()
    carry, out, halts = model.initial_carry(batch), None, []
    for _ in range(4):
        carry, out = model.supervision_step(carry, batch)
        halts.append(out.halt_logit > 0)
    tokens, halt_logit, halt_step = model.answer(batch, 4)
    assert out is not None
    assert torch.equal(tokens, out.logits.argmax(-1))
    assert torch.allclose(halt_logit, out.halt_logit)
    expected = [next((step for step in range(1, 5) if halts[step - 1][slot]), 4) for slot in range(3)]
    assert halt_step.tolist() == expected
    assert len(set(expected)) > 1, "the example should tell slots apart"
