"""Networks with hand-written behavior, for tests of everything that processes the answers of a model.

The result of a training depends on the rounding of the processor; the answers of these networks do not.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from trm.config.dataset_meta import DatasetMeta
from trm.config.evaluation import EvaluateParams
from trm.config.inference import DEFAULT_INFERENCE, InferenceConfig
from trm.config.model import ModelParams
from trm.inference.engine import Predictions, Tokens
from trm.models.act import TRM, build_model
from trm.models.recursion import States

Script = Callable[[np.ndarray, int, float], tuple[np.ndarray, float]]
"""Maps the tokens of a question (uint8 [L]), the supervision step (from 1) and the noise added to the first latent so
far to the tokens of the answer and the halt logit."""


class ScriptedNetwork(TRM):
    """A network that answers by a script. Its states hold the question and the number of rounds."""

    def __init__(self, params: ModelParams, meta: DatasetMeta, script: Script) -> None:
        super().__init__(params, meta, torch.float32, torch.Generator().manual_seed(0))
        self.script = script
        self.eval()

    def embed(self, inputs_BL: Tensor, puzzle_rows: Tensor) -> Tensor:
        del puzzle_rows
        x = torch.zeros(*inputs_BL.shape, self.config.hidden_size)
        x[..., 0] = inputs_BL
        return x

    def initial_states(self, batch_size: int, generator: torch.Generator | None = None) -> States:
        del generator
        shape = (batch_size, self.meta.seq_len, self.config.hidden_size)
        return {"y": torch.zeros(shape), "z": torch.ones(shape)}

    def latent_pass(
        self, injected: Tensor, states: States, number: int, generator: torch.Generator | None = None
    ) -> States:
        del injected, number, generator
        return states

    def answer_pass(self, x: Tensor, states: States) -> States:
        y = states["y"].clone()
        y[..., 0] = x[..., 0]
        y[..., 1] += 1
        y[..., 2] = states["z"][:, :1, 0] - 1
        return states | {"y": y}

    def read_out(self, states: States) -> tuple[Tensor, Tensor, Tensor]:
        rounds = self.variant.rounds(self.config)
        tokens, halt_logit = [], []
        for y in states["y"].numpy():
            question, step, noise = y[:, 0].astype(np.uint8), math.ceil(y[0, 1] / rounds), float(y[0, 2])
            answer, logit = self.script(question, step, noise) if step else (np.zeros_like(question), -1.0)
            tokens.append(torch.from_numpy(answer.astype(np.int64)))
            halt_logit.append(logit)
        logits = torch.nn.functional.one_hot(torch.stack(tokens), self.meta.vocab_size).float()
        return logits, torch.tensor(halt_logit), torch.zeros(len(tokens))


def copying_network(params: ModelParams, meta: DatasetMeta, fill: int = 1) -> TRM:
    """A real network with hand-set weights: it copies the question and replaces token 1 by token `fill`.

    The blocks only normalize, so the states move from the initial vector to the embedding of the question step by
    step. The initial vector is decoded as token 2 and as a negative halt logit. The embeddings differ in length, and
    that of token 1 is the shortest, so some cells change later than others. The halt logit becomes positive when the
    first cell has changed. The two largest logits of a cell differ by far more than rounding errors.
    """
    assert not params.mlp_t
    model = build_model(params, meta)
    V, D = meta.vocab_size, params.hidden_size
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        for name in model.variant.states:
            model.get_buffer(f"{name}_init").copy_(math.sqrt(D) * torch.eye(D)[V])
        model.token_embedding[:, :V] = torch.diag(torch.linspace(0.6, 0.4, V))
        model.token_embedding[1] = 0.25 * torch.eye(D)[fill]
        assert model.output_head is not None
        model.output_head.weight[:, :V] = torch.eye(V)
        model.output_head.weight[2, V] = 0.5
        model.q_head.weight[0, V] = -1
        assert model.q_head.bias is not None
        model.q_head.bias[0] = 2
    return model.eval()


def made_predictions(tokens: Tokens, halt_logit: np.ndarray, steps: int) -> Predictions:
    """The answers `tokens` with `halt_logit` [N] after `steps` steps; each halted in the last, and is settled."""
    taken = np.full(len(tokens), steps, np.int64)
    score, logit = halt_logit.astype(np.float64), halt_logit.astype(np.float32)
    return Predictions(tokens, logit, halt_step=taken, steps=taken, score=score, settled=np.ones(len(tokens)))


def inference_config(max_steps: int = 16, **changes: object) -> InferenceConfig:
    """The default inference settings with changes."""
    return InferenceConfig.model_validate(DEFAULT_INFERENCE.model_dump() | {"max_steps": max_steps} | changes)


def evaluate_params(**changes: object) -> EvaluateParams:
    """Settings of an evaluation on the CPU without votes."""
    values = {
        "pass_at_k": (1,),
        "max_puzzles": None,
        "batch_size": 64,
        "precision": "float32",
        "device": "cpu",
        "seed": 0,
    }
    return EvaluateParams.model_validate(DEFAULT_INFERENCE.model_dump() | values | changes)


def halting_network(params: ModelParams, meta: DatasetMeta) -> TRM:
    """A network with random weights that halts some sequences early."""
    net = build_model(params, meta).eval()
    with torch.no_grad():
        net.q_head.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
        assert net.q_head.bias is not None
        net.q_head.bias.zero_()
    return net
