"""Latent meta attention: a shorter, narrower sequence for the blocks (docs/algorithm.md, Latent meta attention).

Shape suffixes: B batch, S sequence, D hidden size, N latent tokens (lma.length), C numbers of a chunk, E lma.dim.
"""

from torch import Tensor, nn

from trm.config.model import ModelParams
from trm.models.layers import Linear
from trm.utils.errors import ParamsError


def cut(x_BSD: Tensor, length: int) -> Tensor:
    """Flatten column by column (all rows of channel 1, then of channel 2, ...) and cut into `length` equal chunks."""
    return x_BSD.transpose(1, 2).reshape(len(x_BSD), length, -1)


def join(chunks_BNC: Tensor, hidden_size: int) -> Tensor:
    """Undo `cut`: [B, S, D] again."""
    return chunks_BNC.reshape(len(chunks_BNC), hidden_size, -1).transpose(1, 2)


class LatentMetaAttention(nn.Module):
    """The way in and the way back: e [B, S, D] -> [B, N, E], and the final answer [B, N, E] -> [B, S, D]."""

    def __init__(self, config: ModelParams, seq_len: int) -> None:
        super().__init__()
        self.hidden_size, self.length = config.hidden_size, config.lma.length
        numbers = seq_len * self.hidden_size
        if numbers % self.length:
            raise ParamsError(
                f"model.lma.length must divide {seq_len} tokens * hidden_size {self.hidden_size} = {numbers}. "
                f"Got {self.length}"
            )
        chunk, width = numbers // self.length, config.block_width
        self.encoder = Linear(chunk, width)
        self.residual = Linear(chunk, width)
        self.decoder = Linear(width, chunk)

    def encode(self, x_BSD: Tensor) -> Tensor:
        """The latent sequence of the embedded question: two encoders of the same chunks, added."""
        chunks_BNC = cut(x_BSD, self.length)
        return self.encoder(chunks_BNC) + self.residual(chunks_BNC)

    def decode(self, y_BNE: Tensor) -> Tensor:
        """The whole sequence of a latent one."""
        return join(self.decoder(y_BNE), self.hidden_size)
