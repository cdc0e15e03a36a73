import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trm.config.base import parse
from trm.config.dataset_meta import DatasetMeta
from trm.config.model import LmaParams, ModelParams
from trm.models.act import TRM, build_model
from trm.models.lma import join_chunks, split_chunks
from trm.utils.errors import ParamsError


def _with_lma(params: ModelParams, meta: DatasetMeta, **changes: object) -> TRM:
    lma = params.lma.model_copy(update={"enable": True, **changes})
    return build_model(parse(ModelParams, {**params.model_dump(), "lma": lma.model_dump()}, "params.yaml: model"), meta)


def test_split_chunks_by_hand() -> None:
    """S 15, D 6, 5 chunks of 18; the number at row r of channel c is 100 c + r, both counted from 1."""
    x = torch.tensor([[[100 * c + r for c in range(1, 7)] for r in range(1, 16)]])
    chunks = split_chunks(x, 5)
    assert chunks.shape == (1, 5, 18)
    assert chunks[0, 0].tolist() == [*range(101, 116), *range(201, 204)]
    assert chunks[0, 1].tolist() == [*range(204, 216), *range(301, 307)]
    assert chunks[0, 2].tolist() == [*range(307, 316), *range(401, 410)]
    assert chunks[0, 3].tolist() == [*range(410, 416), *range(501, 513)]
    assert chunks[0, 4].tolist() == [*range(513, 516), *range(601, 616)]
    # clean, 3 chunks: two complete channels each
    assert split_chunks(x, 3)[0].tolist() == [
        [*range(100 * c + 1, 100 * c + 16), *range(100 * c + 101, 100 * c + 116)] for c in (1, 3, 5)
    ]


@given(S=st.integers(1, 24), D=st.integers(1, 12), B=st.integers(1, 3), data=st.data())
def test_join_chunks_inverts_split_chunks(S: int, D: int, B: int, data: st.DataObject) -> None:
    length = data.draw(st.sampled_from([n for n in range(1, S * D + 1) if S * D % n == 0]))
    x = torch.arange(B * S * D).view(B, S, D)
    chunks = split_chunks(x, length)
    assert chunks.shape == (B, length, S * D // length)
    assert torch.equal(join_chunks(chunks, D), x)


@pytest.mark.parametrize("mlp_t", [False, True])
def test_encode_and_decode(model_params: ModelParams, meta: DatasetMeta, mlp_t: bool) -> None:
    """The blocks run on 4 tokens of 6; two encodings of the question are added, the answer is decoded once."""
    params = model_params.model_copy(update={"mlp_t": mlp_t, "puzzle_emb_ndim": 16, "puzzle_emb_len": 2})
    model = _with_lma(params, meta, length=4, dim=6, heads=3)
    assert model.lma is not None
    assert model.lma.encoder.weight.shape == (6, 18 * 16 // 4)
    tokens, rows = torch.randint(1, 6, (2, 16)), torch.randn(2, 16)
    plain = build_model(params, meta)
    with torch.no_grad():
        plain.token_embedding.copy_(model.token_embedding)
    e = plain.embed(tokens, rows)
    chunks = e.permute(0, 2, 1).flatten(1).unflatten(1, (4, 72))
    x = model.embed(tokens, rows)
    assert torch.allclose(x, chunks @ model.lma.encoder.weight.T + chunks @ model.lma.residual.weight.T, atol=1e-5)
    states = model.deep_recursion(x, model.initial_states(2))
    assert {name: tuple(state.shape) for name, state in states.items()} == {"y": (2, 4, 6), "z": (2, 4, 6)}
    whole = (states["y"] @ model.lma.decoder.weight.T).flatten(1).unflatten(1, (16, 18)).permute(0, 2, 1)
    with torch.no_grad():
        model.q_head.weight.normal_()
    logits, halt_logit, _ = model.read_out(states)
    assert model.output_head is not None
    assert torch.allclose(logits, whole[:, 2:] @ model.output_head.weight.T, atol=1e-5)
    assert torch.allclose(halt_logit, whole[:, 0] @ model.q_head.weight[0] - 5, atol=1e-5)


def test_all_weights_have_gradients(model_params: ModelParams, meta: DatasetMeta) -> None:
    model = _with_lma(model_params, meta)
    model.read_out(
        model.deep_recursion(
            model.embed(torch.ones(1, 16, dtype=torch.int32), model.puzzle_table), model.initial_states(1)
        )
    )[0].sum().backward()
    assert all(weight.grad is not None for name, weight in model.named_parameters() if "q_head" not in name)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"length": 6}, "lma.length must divide hidden_size in mode clean. Got lma.length=6, hidden_size=16"),
        ({"length": 32}, "lma.length must divide hidden_size in mode clean. Got lma.length=32"),
        ({"mode": "unclean", "length": 6}, r"model.lma.length must divide 16 tokens \* hidden_size 16 = 256. Got 6"),
        ({"heads": 3}, "lma.dim must be a multiple of lma.heads. Got lma.dim=8, lma.heads=3"),
        ({"mode": "messy"}, "model: lma.mode must be 'clean' or 'unclean'. Got 'messy'"),
        ({"length": 0}, "model: lma.length must be greater than or equal to 1. Got 0"),
    ],
)
def test_invalid_lengths(model_params: ModelParams, meta: DatasetMeta, changes: dict[str, object], words: str) -> None:
    with pytest.raises(ParamsError, match=words):
        _with_lma(model_params, meta, **changes)


def test_unclean_allows_more_lengths_than_clean(model_params: ModelParams, meta: DatasetMeta) -> None:
    assert _with_lma(model_params, meta, mode="unclean", length=32).positions == 32
    assert _with_lma(model_params, meta, dim=None).config.block_width == 8  # hidden_size / 2


def test_lma_requires_trm(model_params: ModelParams, meta: DatasetMeta) -> None:
    with pytest.raises(ParamsError, match="lma.enable must be false unless arch is trm. Got arch=hrm"):
        _with_lma(model_params.model_copy(update={"arch": "hrm"}), meta)
    off = LmaParams(enable=False, mode="clean", length=999, dim=None, heads=7)  # not validated
    assert build_model(model_params.model_copy(update={"lma": off}), meta).lma is None
