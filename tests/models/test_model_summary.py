import pytest
from rich.console import Console

from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.models.model_summary import describe_model, flops
from trm.models.variants import VARIANTS


def _pass(params: ModelParams, S: int, D: int) -> int:
    """One block once, by hand: a product of n x k by k x m takes 2 n k m."""
    if params.mlp_t:
        mix = 2 * D * S * 512 + 2 * D * 256 * S
    else:
        mix = 2 * S * D * 3 * D + 2 * S * S * D + 2 * S * S * D + 2 * S * D * D
    return mix + 2 * S * D * 512 + 2 * S * 256 * D


@pytest.mark.parametrize("mlp_t", [False, True], ids=["attention", "mlp"])
@pytest.mark.parametrize("arch", VARIANTS)
@pytest.mark.parametrize("q_continue_loss", [False, True])
def test_operations_by_hand(
    model_params: ModelParams, meta: DatasetMeta, arch: str, mlp_t: bool, q_continue_loss: bool
) -> None:
    changes = {"arch": arch, "mlp_t": mlp_t, "L_layers": 2, "H_layers": 3, "H_cycles": 3, "L_cycles": 2}
    params = model_params.model_copy(
        update={**changes, "puzzle_emb_ndim": 16, "puzzle_emb_len": 1, "q_continue_loss": q_continue_loss}
    )
    block, heads = _pass(params, S=17, D=16), 2 * 16 * 16 * 6 + 2 * 16 * 2
    # Number of blocks that run, and of those with gradients.
    blocks, last = {"hrm": (3 * (2 * 2 + 3), 2 + 3), "transformers_baseline": (3, 3)}.get(arch, (3 * 3 * 2, 3 * 2))
    forward = blocks * block + heads
    again = forward if q_continue_loss or arch == "hrm" else 0  # the continue logit's target
    assert flops(params, meta) == (forward, forward + again + 2 * (last * block + heads))


def test_lma_by_hand(model_params: ModelParams, meta: DatasetMeta) -> None:
    lma = model_params.lma.model_copy(update={"enable": True, "length": 4, "dim": 8})
    params = model_params.model_copy(update={"lma": lma, "mlp_t": False})
    # 2 rounds of 3 passes; two encoders 64 -> 8 and one decoder 8 -> 64 of 4 chunks; both heads
    forward = 6 * _pass(params, S=4, D=8) + 3 * 2 * 4 * 64 * 8 + 2 * 16 * 16 * 6 + 2 * 16 * 2
    assert flops(params, meta)[0] == forward


def test_printed_summary(model_params: ModelParams, meta: DatasetMeta) -> None:
    params = model_params.model_copy(update={"arch": "hrm", "L_layers": 2, "puzzle_emb_ndim": 16, "puzzle_emb_len": 1})
    console = Console(width=200, record=True)
    with console.capture() as capture:
        console.print(describe_model(params, meta))
    lines = [" ".join(line.split()) for line in capture.get().splitlines()]
    # A block: SwiGLU over 17 positions and over 16 channels, 3 * 256 weights for each.
    block = 3 * 256 * 17 + 3 * 256 * 16
    total = 3 * block + 2 * 6 * 16 + 2 * 16 + 2
    assert lines[0] == f"hrm for sudoku 4 x 4: {total:,}"
    for expected in (f"networks: {3 * block:,}", f"L: {2 * block:,}", f"H: {block:,}", "q_head [2 x 16]: 34"):
        assert any(line.endswith(expected) for line in lines), expected
    assert "effective depth 2 x (2 x 2 + 1) = 10 blocks" in lines
    assert "passes 2 x (2 + 1) = 6 per supervision step" in lines
    assert "states y, z: 17 x 16 values each" in lines
    assert "puzzle embedding 16 more per identifier" in lines
