"""Loss and metrics of a supervision step, as functions of tensors."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trm.data.batches import IGNORE_INDEX
from trm.models.act import Carry, Output

METRICS = ("count", "cell_accuracy", "exact_accuracy", "halt_accuracy", "steps")
LOSSES = ("loss", "token_loss", "halt_loss", "q_continue_loss")


def stablemax_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """-log(s(x_label) / sum s(x)), s(x) = x + 1 for x >= 0, else 1 / (1 - x); 0 for ignored labels.

    `logits` [B, L, V], `labels` int [B, L]; the loss is [B, L] in float64 (float32 on MPS, which has no float64).
    smoothing: fraction of the target that is distributed evenly over all V tokens.
    """
    x = logits.to(_loss_dtype(logits))
    # The clamps restrict each branch to its domain, so no gradient is computed near the pole of 1 / (1 - x) at 1.
    s = torch.where(x < 0, 1 / (1 - x.clamp(max=0) + 1e-30), x.clamp(min=0) + 1)
    return _pick(-torch.log(s / s.sum(-1, keepdim=True)), labels, smoothing)


def softmax_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Softmax cross-entropy, float32 [B, L]; 0 for ignored labels. The arguments are those of stablemax."""
    return _pick(-torch.log_softmax(logits.float(), -1), labels, smoothing)


TOKEN_LOSSES = {"stablemax": stablemax_cross_entropy, "softmax": softmax_cross_entropy}


def _loss_dtype(x: Tensor) -> torch.dtype:
    return torch.float32 if x.device.type == "mps" else torch.float64


def _pick(negative_log_p: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    labelled = labels != IGNORE_INDEX
    index = torch.where(labelled, labels, 0).long().unsqueeze(-1)
    loss = negative_log_p.gather(-1, index).squeeze(-1)
    if smoothing:
        loss = (1 - smoothing) * loss + smoothing * negative_log_p.mean(-1)
    return torch.where(labelled, loss, 0)


@dataclass(frozen=True)
class Losses:
    """The loss of a batch and its parts."""

    total: Tensor
    """The scalar to differentiate: sum over slots of (token loss + w * (halt + continue loss)) / G."""
    sums: Tensor
    """Detached, [len(LOSSES)]: sums over slots; the first is `total` * G."""


def supervision_loss(
    carry: Carry,
    out: Output,
    token_loss: str,
    global_batch_size: int,
    *,
    label_smoothing: float = 0.0,
    halt_loss_weight: float = 0.5,
) -> Losses:
    """Loss of the step that returned `carry` and `out`. Slots without labelled tokens do not count.

    token_loss: a key of `TOKEN_LOSSES`. halt_loss_weight: weight of the halt loss and of the continue loss.
    """
    parts = [part.sum() for part in _slot_losses(carry, out, token_loss, label_smoothing)]
    token_loss_sum, *halt_losses = parts
    total = token_loss_sum + halt_loss_weight * sum(halt_losses)
    sums = [part.detach().to(total.dtype) for part in (total, *parts)]
    sums += [torch.zeros_like(sums[0])] * (len(LOSSES) - len(sums))
    return Losses(total / global_batch_size, torch.stack(sums))


def _slot_losses(carry: Carry, out: Output, token_loss: str, label_smoothing: float) -> list[Tensor]:
    """Token loss, halt loss and, if it is trained, continue loss of each slot, [B]."""
    labelled = carry.labels != IGNORE_INDEX
    counts = labelled.sum(-1)
    real = counts > 0
    per_token = TOKEN_LOSSES[token_loss](out.logits, carry.labels, label_smoothing)
    parts = [per_token.sum(-1) / counts.clamp(min=1), _binary(out.halt_logit, _exact(carry, out).float(), real)]
    if out.continue_target is not None:
        parts.append(_binary(out.continue_logit, out.continue_target, real))
    return parts


@torch.no_grad()
def winners(carry: Carry, out: Output, token_loss: str, starts: int) -> Tensor:
    """The slot with the lowest token loss of each group of `starts` adjacent slots, int64 [B / starts]."""
    losses = _slot_losses(carry, out, token_loss, 0.0)[0].view(-1, starts)
    return losses.argmin(-1) + starts * torch.arange(len(losses), device=losses.device)


@torch.no_grad()
def step_metrics(carry: Carry, out: Output) -> Tensor:
    """Sums over the slots that halted in this step and have labels, float32 [len(METRICS)]."""
    labelled = carry.labels != IGNORE_INDEX
    counts = labelled.sum(-1)
    correct = ((out.logits.argmax(-1) == carry.labels) & labelled).sum(-1)
    exact = _exact(carry, out)
    halted = carry.halted & (counts > 0)
    per_slot = torch.stack(
        [
            torch.ones_like(out.halt_logit),
            correct / counts.clamp(min=1),
            exact.float(),
            ((out.halt_logit >= 0) == exact).float(),
            carry.steps.float(),
        ]
    )
    return (per_slot * halted).sum(-1)


def _exact(carry: Carry, out: Output) -> Tensor:
    """Slots with all labelled tokens correct, bool [B]."""
    return ((out.logits.argmax(-1) == carry.labels) | (carry.labels == IGNORE_INDEX)).all(-1)


def _binary(logit: Tensor, target: Tensor, real: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logit, target, reduction="none") * real
