import math
from collections.abc import Callable

import pytest
import torch

from trm.models.act import Carry, Output
from trm.training.losses import (
    LOSSES,
    METRICS,
    softmax_cross_entropy,
    stablemax_cross_entropy,
    step_metrics,
    supervision_loss,
)


def _step(
    logits: list, labels: list, halt: list[float], halted: list[bool] | None = None, steps: list[int] | None = None
) -> tuple[Carry, Output]:
    B = len(labels)
    empty = torch.zeros(B)
    carry = Carry(
        states={},
        steps=torch.tensor(steps or [1] * B),
        halted=torch.tensor(halted or [True] * B),
        inputs=empty,
        labels=torch.tensor(labels),
        puzzle_identifiers=empty,
    )
    return carry, Output(torch.tensor(logits), torch.tensor(halt), torch.zeros(B), empty, None)


def test_stablemax_by_hand() -> None:
    # s(2) = 3, s(0) = 1, s(-1) = 1/2: probabilities 3, 1 and 1/2 out of 4.5
    logits = torch.tensor([[[2.0, 0.0, -1.0]] * 4])
    loss = stablemax_cross_entropy(logits, torch.tensor([[0, 1, 2, -100]]))
    assert loss.dtype == torch.float64
    assert loss[0].tolist() == pytest.approx([math.log(1.5), math.log(4.5), math.log(9), 0])


def test_stablemax_gradient_is_finite_everywhere() -> None:
    logits = torch.tensor([[[1.0, 0.0, -1.0, 1e4, -1e4]]], requires_grad=True)
    stablemax_cross_entropy(logits, torch.tensor([[1]])).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    # d/dx of -log(s(0) / S) is 1/S - 1, with S = 2 + 1 + 1/2 + 10001 + 1/10001
    S = 2 + 1 + 0.5 + 10001 + 1 / 10001
    assert logits.grad[0, 0, 1].item() == pytest.approx(1 / S - 1)


def test_softmax_equals_cross_entropy() -> None:
    logits = torch.tensor([[[math.log(3.0), 0.0], [0.0, 0.0]]])
    assert softmax_cross_entropy(logits, torch.tensor([[0, -100]]))[0].tolist() == pytest.approx([math.log(4 / 3), 0])


def test_total_by_hand() -> None:
    """(sum over slots of mean token loss + 0.5 * halt loss) / G; slots without labels do not count."""
    right, wrong = [1.0, 0.0], [0.0, 1.0]  # stablemax: 2/3 and 1/3
    carry, out = _step(
        logits=[[right, right], [right, wrong], [right, wrong], [wrong, wrong]],
        labels=[[0, 0], [0, 0], [0, -100], [-100, -100]],
        halt=[0.0, math.log(3), math.log(3), 100.0],
    )
    losses = supervision_loss(carry, out, "stablemax", global_batch_size=8)
    tokens = math.log(1.5) + (math.log(1.5) + math.log(3)) / 2 + math.log(1.5)
    # Targets 1, 0, 1: -log(1/2), -log(1 - 3/4), -log(3/4)
    halt = math.log(2) + math.log(4) + math.log(4 / 3)
    sums = dict(zip(LOSSES, losses.sums.tolist(), strict=True))
    assert sums == pytest.approx(
        {"loss": tokens + 0.5 * halt, "token_loss": tokens, "halt_loss": halt, "q_continue_loss": 0}
    )
    assert losses.total.item() == pytest.approx((tokens + 0.5 * halt) / 8)


def test_continue_loss_has_the_same_weight() -> None:
    carry, out = _step([[[1.0, 0.0]]], [[0]], [0.0])
    out = Output(out.logits, out.halt_logit, torch.tensor([0.0]), out.puzzle_rows, torch.tensor([0.25]))
    sums = dict(zip(LOSSES, supervision_loss(carry, out, "stablemax", 1).sums.tolist(), strict=True))
    assert sums["q_continue_loss"] == pytest.approx(math.log(2))
    assert sums["loss"] == pytest.approx(math.log(1.5) + 0.5 * math.log(2) + 0.5 * math.log(2))


def test_metrics_count_the_slots_that_halted() -> None:
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    carry, out = _step(
        logits=[[right, right], [right, wrong], [right, wrong], [right, right], [right, right]],
        labels=[[0, 0], [0, 0], [0, -100], [0, 0], [-100, -100]],
        halt=[0.0, -1.0, -1.0, 5.0, 5.0],
        halted=[True, True, True, False, True],  # the fourth continues, the fifth is padding
        steps=[1, 4, 7, 2, 3],
    )
    # Exact: yes, no, yes. Halt logit >= 0: yes, no, no.
    assert dict(zip(METRICS, step_metrics(carry, out).tolist(), strict=True)) == {
        "count": 3,
        "cell_accuracy": 1 + 0.5 + 1,
        "exact_accuracy": 2,
        "halt_accuracy": 2,
        "steps": 12,
    }


@pytest.mark.parametrize("loss", [stablemax_cross_entropy, softmax_cross_entropy])
def test_label_smoothing_by_hand(loss: Callable[..., torch.Tensor]) -> None:
    # Probabilities 2/3 and 1/3 (softmax) or 3/4 and 1/4 (stablemax of 2 and 0).
    softmax = loss is softmax_cross_entropy
    logits = torch.tensor([[[math.log(2), 0.0] if softmax else [2.0, 0.0]] * 2])
    p, q = (2 / 3, 1 / 3) if softmax else (3 / 4, 1 / 4)
    expected = -0.8 * math.log(p) - 0.2 * (math.log(p) + math.log(q)) / 2
    assert loss(logits, torch.tensor([[0, -100]]), 0.2)[0].tolist() == pytest.approx([expected, 0])


def test_weight_of_the_halt_loss() -> None:
    """Two slots, token losses log(3/2) and log(3), halt losses log(2) each."""
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    carry, out = _step([[right], [wrong]], [[0], [0]], [0.0, 0.0])
    losses = supervision_loss(carry, out, "stablemax", 2, halt_loss_weight=0.1)
    total = math.log(1.5) + math.log(3) + 2 * 0.1 * math.log(2)
    sums = dict(zip(LOSSES, losses.sums.tolist(), strict=True))
    halt = 2 * math.log(2)
    assert sums == pytest.approx(
        {"loss": total, "token_loss": math.log(1.5) + math.log(3), "halt_loss": halt, "q_continue_loss": 0}
    )
    assert losses.total.item() == pytest.approx(total / 2)
