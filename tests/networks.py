"""Networks whose behaviour is set by hand, for tests of what is made of a model's answers.

What a training learns depends on how the processor rounds; what these answer does not.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from trm.config import ModelParams
from trm.meta import DatasetMeta
from trm.model.recursion import States
from trm.model.supervision import TRM, build_model

Script = Callable[[np.ndarray, int, float], tuple[np.ndarray, float]]
"""From the tokens of a question (uint8 [L]), the supervision step (from 1) and the noise that the first latent has
received so far to the tokens of the answer and the halt logit."""


class ScriptedNetwork(TRM):
    """A network that answers as its script says; the states carry the question and the number of rounds."""

    def __init__(self, params: ModelParams, meta: DatasetMeta, script: Script) -> None:
        super().__init__(params, meta, torch.float32, torch.Generator().manual_seed(0))
        self.script = script
        self.eval()

    def embed(self, inputs_BL: Tensor, puzzle_rows: Tensor) -> Tensor:
        del puzzle_rows
        x = torch.zeros(*inputs_BL.shape, self.config.hidden_size)
        x[..., 0] = inputs_BL
        return x

    def start(self, batch_size: int) -> States:
        shape = (batch_size, self.meta.seq_len, self.config.hidden_size)
        return {"y": torch.zeros(shape), "z": torch.ones(shape)}

    def latent_passes(self, x: Tensor, states: States, passes: range) -> States:
        del x, passes
        return states

    def answer_pass(self, x: Tensor, states: States) -> States:
        y = states["y"].clone()
        y[..., 0] = x[..., 0]
        y[..., 1] += 1
        y[..., 2] = states["z"][:, :1, 0] - 1
        return states | {"y": y}

    def read_out(self, states: States) -> tuple[Tensor, Tensor, Tensor]:
        rounds = self.member.rounds(self.config)
        tokens, halt_logit = [], []
        for y in states["y"].numpy():
            question, step, noise = y[:, 0].astype(np.uint8), math.ceil(y[0, 1] / rounds), float(y[0, 2])
            answer, logit = self.script(question, step, noise) if step else (np.zeros_like(question), -1.0)
            tokens.append(torch.from_numpy(answer.astype(np.int64)))
            halt_logit.append(logit)
        logits = torch.nn.functional.one_hot(torch.stack(tokens), self.meta.vocab_size).float()
        return logits, torch.tensor(halt_logit), torch.zeros(len(tokens))


def copying_network(params: ModelParams, meta: DatasetMeta, fill: int = 1) -> TRM:
    """A real network with weights set by hand: it copies the question and writes token `fill` for token 1.

    The blocks only normalize, so from step to step the states turn from the start vector to the embedding of the
    question. The start vector is read as token 2 and as a negative halt logit. The embeddings differ in length, that of
    token 1 is the shortest: some cells turn later than others. The halt logit becomes positive when the first cell has
    turned. The two largest logits of a cell differ by far more than any processor rounds.
    """
    assert not params.mlp_t
    model = build_model(params, meta)
    V, D = meta.vocab_size, params.hidden_size
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        for name in model.member.states:
            model.get_buffer(f"{name}_init").copy_(math.sqrt(D) * torch.eye(D)[V])
        model.token_embedding[:, :V] = torch.diag(torch.linspace(0.6, 0.4, V))
        model.token_embedding[1] = 0.25 * torch.eye(D)[fill]
        model.output_head.weight[:, :V] = torch.eye(V)
        model.output_head.weight[2, V] = 0.5
        model.q_head.weight[0, V] = -1
        assert model.q_head.bias is not None
        model.q_head.bias[0] = 2
    return model.eval()
