"""Latent meta attention: a shorter, narrower sequence for the blocks (docs/algorithm.md, Latent meta attention).

Shape suffixes: B batch, S sequence, D hidden size, N latent tokens (lma.length), C chunk size, E lma.dim.
"""

from torch import Tensor, nn

from trm.config.model import ModelParams
from trm.models.layers import Linear
from trm.utils.errors import ParamsError


def split_chunks(x_BSD: Tensor, length: int) -> Tensor:
    """Flatten by channel (all positions of channel 1, then of channel 2, ...); split into chunks [B, `length`, C]."""
    return x_BSD.transpose(1, 2).flatten(1).unflatten(1, (length, -1))


def join_chunks(chunks_BNC: Tensor, hidden_size: int) -> Tensor:
    """Inverse of `split_chunks`, [B, S, D]."""
    return chunks_BNC.flatten(1).unflatten(1, (hidden_size, -1)).transpose(1, 2)


class LatentMetaAttention(nn.Module):
    """Encoder [B, S, D] -> [B, N, E] of the question and decoder [B, N, E] -> [B, S, D] of the final answer.

    Raises `ParamsError` if `lma.length` does not divide S * D.
    """

    def __init__(self, config: ModelParams, seq_len: int) -> None:
        super().__init__()
        self.hidden_size, self.length = config.hidden_size, config.lma.length
        size = seq_len * self.hidden_size
        if size % self.length:
            raise ParamsError(
                f"model.lma.length must divide {seq_len} tokens * hidden_size {self.hidden_size} = {size}. "
                f"Got {self.length}"
            )
        chunk, width = size // self.length, config.block_width
        self.encoder = Linear(chunk, width)
        self.residual = Linear(chunk, width)
        self.decoder = Linear(width, chunk)

    def encode(self, x_BSD: Tensor) -> Tensor:
        """Encode the embedded question as [B, N, E]: the sum of two linear maps of its chunks."""
        chunks_BNC = split_chunks(x_BSD, self.length)
        return self.encoder(chunks_BNC) + self.residual(chunks_BNC)

    def decode(self, y_BNE: Tensor) -> Tensor:
        """Decode a latent sequence to [B, S, D]."""
        return join_chunks(self.decoder(y_BNE), self.hidden_size)
