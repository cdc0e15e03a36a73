"""Adam-atan2, AdamW and Muon for the network, sparse SignSGD for the puzzle embedding."""

import importlib
import importlib.util
import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from trm.config.training import AdamAtan2Params, AdamWParams, TrainParams
from trm.models.recursion import RecursiveNetwork
from trm.utils.errors import UserError


class AdamAtan2:
    """Adam with atan2 in place of the division, as in the CUDA kernel of adam-atan2 0.0.3.

        w = w * (1 - lr * weight_decay)
        w = w - lr / (1 - beta1^t) * atan2(m, sqrt(v) / sqrt(1 - beta2^t))

    m and v as in Adam, without an epsilon. The first bias correction scales the step outside the atan2. Parameters
    without a gradient are skipped, including their decay.

    It has the interface of `torch.optim.Optimizer`, but is none: that class imports torch._dynamo, which takes longer
    than a short training (1.2 of 3.5 CPU seconds).
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], weight_decay: float
    ) -> None:
        group = {"params": list(params), "lr": lr, "betas": betas, "weight_decay": weight_decay}
        self.param_groups: list[dict[str, Any]] = [group]
        self.state: defaultdict[Tensor, dict[str, Tensor]] = defaultdict(dict)
        """Parameter -> `step` (float32 []), `exp_avg` m and `exp_avg_sq` v (of the parameter's shape and dtype)."""

    def zero_grad(self) -> None:
        """Set every gradient to None."""
        for group in self.param_groups:
            for weight in group["params"]:
                weight.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            lr, (beta1, beta2), weight_decay = group["lr"], group["betas"], group["weight_decay"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.float32)
                    state["exp_avg"] = torch.zeros_like(weight)
                    state["exp_avg_sq"] = torch.zeros_like(weight)
                state["step"] += 1
                t, m, v = state["step"].item(), state["exp_avg"], state["exp_avg_sq"]
                m.lerp_(weight.grad, 1 - beta1)
                v.mul_(beta2).addcmul_(weight.grad, weight.grad, value=1 - beta2)
                change = torch.atan2(m, v.sqrt().div_(math.sqrt(1 - beta2**t)))
                # Decay and step are small relative to the weight: adding them first rounds the weight only once.
                change.mul_(lr / (1 - beta1**t)).add_(weight, alpha=lr * weight_decay)
                weight.sub_(change)


Optimizer = torch.optim.Optimizer | AdamAtan2


def network_optimizers(model: RecursiveNetwork, settings: TrainParams) -> list[Optimizer]:
    """The optimizers of the network: one for all weights, or one for the matrices of the blocks and one for the rest.

    Each parameter group has its learning rate after warm-up as `base_lr`; the schedule sets `lr` before each step.
    Raises `UserError` if the CUDA kernel is asked for and cannot be used.
    """
    network, device = settings.optimizer.network, model.device
    if network.name == "muon":
        matrices = list(model.networks.parameters())
        inside = {id(weight) for weight in matrices}
        others = [weight for weight in model.parameters() if id(weight) not in inside]
        muon = torch.optim.Muon(matrices, lr=0.0, weight_decay=network.weight_decay, momentum=network.momentum)
        optimizers: dict[Optimizer, float] = {muon: network.lr, _adam(others, network.others, device): settings.lr}
    else:
        optimizers = {_adam(list(model.parameters()), network, device): settings.lr}
    for optimizer, base_lr in optimizers.items():
        for group in optimizer.param_groups:
            group["base_lr"] = base_lr
    return list(optimizers)


def _adam(params: list[nn.Parameter], settings: AdamAtan2Params | AdamWParams, device: torch.device) -> Optimizer:
    options: dict[str, Any] = {"lr": 0.0, "betas": (settings.beta1, settings.beta2)}
    options["weight_decay"] = settings.weight_decay
    if settings.name == "adamw":
        return torch.optim.AdamW(params, **options)
    if not settings.fused:
        return AdamAtan2(params, **options)
    if device.type != "cuda" or not importlib.util.find_spec("adam_atan2_backend"):
        reason = f"the device is {device.type}" if device.type != "cuda" else "package adam-atan2 is not installed"
        raise UserError(
            f"train.optimizer.network.fused is true, but {reason}; set it to false, or train on CUDA with the package: "
            "pip install 'trm[cuda]' (requires nvcc)"
        )
    package: Any = importlib.import_module("adam_atan2")
    return package.AdamATan2(params, **options)


@torch.no_grad()
def sign_sgd_rows(table: Tensor, identifiers: Tensor, gradients: Tensor, lr: float, weight_decay: float) -> None:
    """Update in place the rows of `table` [N, dim] with indices `identifiers` int [B], by `gradients` [B, dim].

    Gradients of equal identifiers are summed; then row = row * (1 - lr * weight_decay) - lr * sign(gradient), once per
    distinct row. The cost depends on B, not on N. No size depends on the identifiers, so a GPU is not waited for.
    """
    first = torch.searchsorted(identifiers.sort().values, identifiers)  # equal for equal identifiers
    summed = torch.zeros_like(gradients).index_add_(0, first, gradients)[first]
    table[identifiers] = table[identifiers] * (1 - lr * weight_decay) - lr * summed.sign()
