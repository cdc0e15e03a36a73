"""The parts of a model that are exported, as modules of tensors."""

import torch
from torch import Tensor, nn

from trm.models.act import TRM


class StartModule(nn.Module):
    """Tokens -> the question x and the states before the first step.

    The puzzle tokens are those of identifier 0, which `trm.solve` uses for puzzles from outside the dataset.
    """

    def __init__(self, model: TRM) -> None:
        super().__init__()
        self.model = model
        first = torch.zeros(1, dtype=torch.int64, device=model.device)
        with torch.no_grad():
            self.register_buffer("puzzle_row", model.gather_puzzle_rows(first).clone())
            for name, state in model.initial_states(1).items():
                self.register_buffer(f"first_{name}", state.clone())

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """tokens: int64 [B, L] -> x and the states, float32 [B, S, D] each."""
        x = self.model.embed(tokens, self.get_buffer("puzzle_row").expand(tokens.shape[0], -1))
        starts = [self.get_buffer(f"first_{name}") for name in self.model.variant.states]
        return x, *(start.expand(tokens.shape[0], -1, -1) for start in starts)


class StepModule(nn.Module):
    """One supervision step: x and states -> states, logits and halting logits."""

    def __init__(self, model: TRM) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """x and the states: float32 [B, S, D] each -> the states, logits float32 [B, L, V], halt and continue logits
        float32 [B].
        """
        names = self.model.variant.states
        after = self.model.deep_recursion(x, dict(zip(names, states, strict=True)))
        logits, halt_logit, continue_logit = self.model.read_out(after)
        return *(after[name] for name in names), logits, halt_logit, continue_logit


def example_tokens(model: TRM, batch_size: int = 2) -> Tensor:
    """Valid tokens, int64 [B, L]."""
    return torch.ones(batch_size, model.meta.seq_len, dtype=torch.int64)


def batch_shapes(count: int) -> tuple[object, ...]:
    """Dynamic shapes of `count` tensors whose first dimension is the batch: the first, and the others as *states."""
    batch = {0: torch.export.Dim("batch", min=1, max=65536)}
    return (batch, (batch,) * (count - 1)) if count > 1 else (batch,)
