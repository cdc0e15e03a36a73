"""All model variants against an independent implementation (tests/models/reference.py)."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models import reference
from trm import DataError, ParamsError, UserError, export_published, import_published
from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.models.act import TRM, build_model
from trm.models.conversion import arch_of
from trm.models.variants import VARIANTS
from trm.training.losses import supervision_loss

each_variant = pytest.mark.parametrize("word", VARIANTS)
each_mix = pytest.mark.parametrize("mlp_t", [False, True], ids=["attention", "mlp"])


def _arch(word: str, mlp_t: bool = False, **changes: object) -> dict[str, Any]:
    return {
        "name": f"models.recursive_reasoning.{word}@Some_Class",
        "hidden_size": 16,
        "num_heads": 2,
        "L_layers": 2,
        "H_layers": 1 if word == "hrm" else 3,
        "expansion": 1,
        "H_cycles": 2,
        "L_cycles": 3,
        "mlp_t": mlp_t,
        "pos_encodings": "rope",
        "puzzle_emb_ndim": 20,
        "puzzle_emb_len": 3,
        "halt_max_steps": 3,
        "halt_exploration_prob": 0.0,
        "forward_dtype": "float32",
        "seq_len": 9,
        "vocab_size": 6,
        "num_puzzle_identifiers": 4,
        **changes,
    }


def _weights(arch: dict[str, Any], seed: int = 6) -> dict[str, Tensor]:
    """A random published state dict."""
    generator = torch.Generator().manual_seed(seed)
    D, V, word = arch["hidden_size"], arch["vocab_size"], arch["name"].split("@")[0].split(".")[-1]
    P = 3 if word.startswith("trm") else 2  # the others ignore puzzle_emb_len: ceil(20 / 16)

    def random(*shape: int) -> Tensor:
        # Scaled down: at full scale the recursion amplifies rounding differences.
        return 0.6 * torch.randn(shape, generator=generator) / shape[-1] ** 0.5

    weights = {"embed_tokens.embedding_weight": random(V, D), "lm_head.weight": random(V, D)}
    weights |= {"puzzle_emb.weights": random(4, 20), "q_head.weight": 3 * random(2, D), "q_head.bias": torch.zeros(2)}
    starts = {"trm_singlez": ["L"], "transformers_baseline": ["H"]}.get(word, ["H", "L"])
    starts = ["H", *(f"L{i}" for i in range(1, 7))] if word == "trm_hier6" else starts
    weights |= {f"{name}_init": torch.randn(D, generator=generator) for name in starts}
    levels = {"hrm": {"L": 2, "H": 1}, "transformers_baseline": {"H": 3}}.get(word, {"L": 2})
    for level, layers in levels.items():
        for layer in range(layers):
            name = f"{level}_level.layers.{layer}"
            weights |= {
                f"{name}.mlp.gate_up_proj.weight": random(512, D),
                f"{name}.mlp.down_proj.weight": random(D, 256),
            }
            if arch["mlp_t"]:
                weights[f"{name}.mlp_t.gate_up_proj.weight"] = random(512, P + 9)
                weights[f"{name}.mlp_t.down_proj.weight"] = random(P + 9, 256)
            else:
                weights[f"{name}.self_attn.qkv_proj.weight"] = random(3 * D, D)
                weights[f"{name}.self_attn.o_proj.weight"] = random(D, D)
    return {f"inner.{name}": weight for name, weight in weights.items()}


def _batch(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = {"inputs": (6, (5, 9)), "labels": (6, (5, 9)), "puzzle_identifiers": (4, (5,))}
    return {name: torch.randint(top, shape, generator=generator).int() for name, (top, shape) in drawn.items()}


@each_variant
@each_mix
def test_steps_in_training(word: str, mlp_t: bool) -> None:
    """Logits, halting, refill, the continue logit's target: three steps, slot by slot."""
    arch = _arch(word, mlp_t)
    weights = _weights(arch)
    model = import_published(weights, arch).train()
    assert model.config.arch == word
    assert model.config.uses_q_continue == (word == "hrm")
    carry = model.initial_carry(_batch(1))
    slots: list[dict[str, Any]] = [{"halted": True} for _ in range(5)]
    seen = set()
    for step in range(1, 4):
        batch = _batch(step)
        carry, out = model.supervision_step(carry, batch)
        for i, slot in enumerate(slots):
            if slot["halted"]:
                e = reference.embed(weights, arch, batch["inputs"][i : i + 1], batch["puzzle_identifiers"][i : i + 1])
                slot.update(e=e, states=reference.start(weights, e), steps=0)
            slot["states"] = reference.step(weights, arch, slot["e"], slot["states"])
            slot["steps"] += 1
            logits, halt, go_on = reference.read_out(weights, arch, slot["states"])
            assert torch.allclose(out.logits[i], logits[0], atol=1e-5)
            assert torch.allclose(out.halt_logit[i], halt[0], atol=1e-5)
            assert torch.allclose(out.continue_logit[i], go_on[0], atol=1e-5)
            slot["halted"] = slot["steps"] == 3 or bool(halt > (go_on if word == "hrm" else 0))
            seen.add((slot["halted"], slot["steps"]))
            if word == "hrm":
                after = reference.step(weights, arch, slot["e"], slot["states"])
                _, next_halt, next_go_on = reference.read_out(weights, arch, after)
                best = next_halt if slot["steps"] == 3 else torch.maximum(next_halt, next_go_on)
                assert out.continue_target is not None
                assert torch.allclose(out.continue_target[i], best.sigmoid()[0], atol=1e-5)
        assert carry.halted.tolist() == [slot["halted"] for slot in slots]
        assert carry.steps.tolist() == [slot["steps"] for slot in slots]
    assert len(seen) > 2, "the example should tell slots apart"


@each_variant
@each_mix
@pytest.mark.parametrize("loss", ["stablemax", "softmax"])
def test_gradients(word: str, mlp_t: bool, loss: str) -> None:
    arch = _arch(word, mlp_t)
    weights = {name: weight.requires_grad_(not name.endswith("_init")) for name, weight in _weights(arch).items()}
    model = import_published(weights, arch).train()
    batch = _batch(1)
    e = reference.embed(weights, arch, batch["inputs"], batch["puzzle_identifiers"])
    logits, halt, go_on = reference.read_out(
        weights, arch, reference.step(weights, arch, e, reference.start(weights, e))
    )
    carry, out = model.supervision_step(model.initial_carry(batch), batch)
    supervision_loss(carry, out, loss, 5).total.backward()
    # The same loss for the outputs of the reference.
    theirs = type(out)(logits, halt, go_on, out.puzzle_rows, out.continue_target)
    supervision_loss(carry, theirs, loss, 5).total.backward()
    exported = {name: weight.grad for name, weight in weights.items()}
    names = {theirs: ours for ours, theirs in _names(model).items()}
    for name, gradient in exported.items():
        if name.endswith("_init"):
            continue
        assert gradient is not None, name
        if name == "inner.puzzle_emb.weights":
            ours = torch.zeros(4, 20).index_add_(0, batch["puzzle_identifiers"].long(), _grad(out.puzzle_rows))
        else:
            ours = _grad(model.get_parameter(names[name]))
        assert torch.allclose(ours, gradient, atol=1e-6 + 1e-4 * gradient.abs().max().item()), name
        assert gradient.abs().max() > 0, name


def _names(model: TRM) -> dict[str, str]:
    from trm.models.conversion import published_keys

    return published_keys(model)


def _grad(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


@each_variant
@each_mix
def test_evaluation_and_export(word: str, mlp_t: bool) -> None:
    arch = _arch(word, mlp_t)
    weights, batch = _weights(arch), _batch(7)
    model = import_published({f"_orig_mod.module.model.{name}": w for name, w in weights.items()}, arch)
    carry, out = model.initial_carry(batch), None
    e = reference.embed(weights, arch, batch["inputs"], batch["puzzle_identifiers"])
    states = reference.start(weights, e)
    for step in range(1, 4):
        carry, out = model.supervision_step(carry, batch)
        states = reference.step(weights, arch, e, states)
        assert torch.allclose(out.logits, reference.read_out(weights, arch, states)[0], atol=1e-5)
        assert carry.halted.tolist() == [step == 3] * 5
    assert out is not None
    assert torch.equal(model.answer(batch, 3)[0], out.logits.argmax(-1))
    exported = export_published(model)
    assert exported.keys() == weights.keys()
    assert all(torch.equal(exported[name], weights[name]) for name in weights)
    again = import_published(exported, arch_of(model))
    assert again.config == model.config
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_unused_settings() -> None:
    arch = _arch("transformers_baseline")
    for key in ("L_layers", "H_cycles", "L_cycles", "puzzle_emb_len", "mlp_t"):
        del arch[key]
    model = import_published(_weights(_arch("transformers_baseline")), arch)
    assert (model.config.puzzle_emb_len, len(model.networks["H"])) == (2, 3)  # pyright: ignore[reportArgumentType]
    assert "L" not in model.networks
    arch = _arch("trm", no_ACT_continue=False)
    del arch["H_layers"]
    assert import_published(_weights(arch), arch).config.uses_q_continue
    arch = _arch("transformers_baseline", no_ACT_continue=False)
    assert not import_published(_weights(arch), arch).config.uses_q_continue  # only trm has this key
    arch = _arch("hrm", no_ACT_continue=True)
    assert import_published(_weights(arch), arch).config.uses_q_continue
    with pytest.raises(ParamsError, match="arch.H_layers is missing"):
        import_published({}, {key: value for key, value in _arch("hrm").items() if key != "H_layers"})
    with pytest.raises(ParamsError, match="L_cycles must be at most 6 in trm_hier6, one for each z. Got 7"):
        import_published({}, _arch("trm_hier6", L_cycles=7))


def test_six_passes_update_all_six_states() -> None:
    arch = _arch("trm_hier6", L_cycles=6)
    weights, batch = _weights(arch), _batch(1)
    e = reference.embed(weights, arch, batch["inputs"], batch["puzzle_identifiers"])
    expected = reference.step(weights, arch, e, reference.start(weights, e))
    model = import_published(weights, arch)
    carry, _ = model.supervision_step(model.initial_carry(batch), batch)
    for i in range(1, 7):
        assert torch.allclose(carry.states[f"z{i}"], expected[f"L{i}_init"], atol=1e-5)


@pytest.mark.parametrize(
    ("theirs", "given", "words"),
    [
        ("hrm", "trm", r"unknown tensor inner.H_level.layers.0.mlp.down_proj.weight, which a checkpoint of trm \(arch"),
        ("trm", "hrm", "inner.H_level.layers.0.mix.*|inner.H_level.layers.0.self_attn.qkv_proj.weight is missing"),
        ("trm", "trm_singlez", "unknown tensor inner.H_init, which a checkpoint of trm_singlez"),
        ("trm", "trm_hier6", "inner.L1_init is missing, which a checkpoint of trm_hier6"),
        ("transformers_baseline", "trm", "is missing, which a checkpoint of trm"),
    ],
)
def test_checkpoint_of_another_variant(theirs: str, given: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        import_published(_weights(_arch(theirs)), _arch(given))


def test_a_puzzle_table_of_another_size() -> None:
    arch, other = _arch("trm"), _arch("trm", num_puzzle_identifiers=7)
    weights = _weights(arch)
    with pytest.raises(
        DataError, match=r"inner.puzzle_emb.weights should have shape \(7, 20\). Got \(4, 20\).*--reset"
    ):
        import_published(weights, other)
    model = import_published(weights, other, reset_puzzle_emb=True)
    assert torch.allclose(model.puzzle_table, weights["inner.puzzle_emb.weights"].mean(0).expand(7, 20))
    wider = weights | {"inner.puzzle_emb.weights": torch.zeros(4, 21)}
    with pytest.raises(DataError, match=r"should have shape \(7, 20\). Got \(4, 21\)"):
        import_published(wider, other, reset_puzzle_emb=True)
    meta = DatasetMeta(name="any", height=1, width=9, vocabulary=tuple("abcdef"), num_identifiers=7)
    with pytest.raises(ParamsError, match="arch.num_puzzle_identifiers must be 7, as in the dataset. Got 4"):
        import_published(weights, arch, meta)
    assert import_published(weights, arch, meta, reset_puzzle_emb=True).puzzle_table.shape == (7, 20)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lma": {"enable": True}}, "model.lma.enable must be false to export"),
        ({"arch": "hrm", "puzzle_emb_ndim": 16, "puzzle_emb_len": 2}, "puzzle_emb_len must be 1 to export hrm.*Got 2"),
    ],
)
def test_unsupported_export(model_params: ModelParams, meta: DatasetMeta, changes: dict[str, Any], words: str) -> None:
    if "lma" in changes:
        changes = {"lma": model_params.lma.model_copy(update=changes["lma"])}
    with pytest.raises(UserError, match=words):
        export_published(build_model(model_params.model_copy(update=changes), meta))


@pytest.mark.parametrize("arch", VARIANTS)
def test_depth_is_the_blocks_that_run(model_params: ModelParams, meta: DatasetMeta, arch: str) -> None:
    params = model_params.model_copy(update={"arch": arch, "L_layers": 2, "H_layers": 3, "H_cycles": 2})
    model = build_model(params, meta)
    runs: list[object] = []
    for blocks in model.networks.values():
        for block in blocks:  # pyright: ignore[reportGeneralTypeIssues]
            block.register_forward_hook(lambda *_: runs.append(1))
    batch = {"inputs": torch.ones(1, 16, dtype=torch.int32), "puzzle_identifiers": torch.zeros(1, dtype=torch.int32)}
    model.answer(batch, 1)
    expected = {"hrm": 2 * (2 * 2 + 3), "transformers_baseline": 3}.get(arch, 2 * (2 + 1) * 2)
    assert len(runs) == model.variant.depth(params) == expected
