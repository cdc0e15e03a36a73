"""Direct implementation of all model variants on published state dicts, slow and independent of `trm.models`."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = Mapping[str, Tensor]


def norm(x: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-5)


def swiglu(w: Weights, name: str, x: Tensor) -> Tensor:
    gate, up = (x @ w[f"{name}.gate_up_proj.weight"].T).chunk(2, -1)
    return (F.silu(gate) * up) @ w[f"{name}.down_proj.weight"].T


def attention(w: Weights, name: str, x: Tensor, heads: int) -> Tensor:
    B, S, D = x.shape
    K = D // heads
    q, k, v = (x @ w[f"{name}.qkv_proj.weight"].T).split(D, -1)
    out = torch.zeros(B, S, D)
    angle = torch.arange(S)[:, None] * 10000.0 ** (-torch.arange(0, K, 2) / K)[None]
    cos, sin = torch.cat((angle.cos(),) * 2, -1), torch.cat((angle.sin(),) * 2, -1)

    def rope(u: Tensor) -> Tensor:
        half = torch.cat((-u[..., K // 2 :], u[..., : K // 2]), -1)
        return u * cos + half * sin

    for head in range(heads):
        part = slice(head * K, (head + 1) * K)
        scores = rope(q[..., part]) @ rope(k[..., part]).transpose(1, 2) / math.sqrt(K)
        out[..., part] = scores.softmax(-1) @ v[..., part]
    return out @ w[f"{name}.o_proj.weight"].T


def net(w: Weights, arch: Mapping[str, Any], level: str, x: Tensor) -> Tensor:
    """The blocks of `level` (L or H), one after the other."""
    block = 0
    while f"inner.{level}_level.layers.{block}.mlp.down_proj.weight" in w:
        name = f"inner.{level}_level.layers.{block}"
        if arch["mlp_t"]:
            turned = x.transpose(1, 2)
            x = norm(turned + swiglu(w, f"{name}.mlp_t", turned)).transpose(1, 2)
        else:
            x = norm(x + attention(w, f"{name}.self_attn", x, arch["num_heads"]))
        x = norm(x + swiglu(w, f"{name}.mlp", x))
        block += 1
    return x


def embed(w: Weights, arch: Mapping[str, Any], inputs: Tensor, identifiers: Tensor) -> Tensor:
    D, dim = arch["hidden_size"], arch["puzzle_emb_ndim"]
    always_shortest = "hrm" in arch["name"] or "transformers_baseline" in arch["name"]
    P = math.ceil(dim / D) if always_shortest or not arch.get("puzzle_emb_len") else arch["puzzle_emb_len"]
    rows = w["inner.puzzle_emb.weights"][identifiers.long()]
    puzzle = torch.cat((rows, torch.zeros(len(rows), P * D - dim)), -1).reshape(len(rows), P, D)
    return math.sqrt(D) * torch.cat((puzzle, w["inner.embed_tokens.embedding_weight"][inputs.long()]), 1)


def start(w: Weights, like: Tensor) -> dict[str, Tensor]:
    """All initial states, expanded to all positions."""
    vectors = {key.removeprefix("inner."): value for key, value in w.items() if key.endswith("_init")}
    return {name: vector.expand_as(like).clone() for name, vector in vectors.items()}


def step(w: Weights, arch: Mapping[str, Any], e: Tensor, s: dict[str, Tensor]) -> dict[str, Tensor]:
    """One supervision step on the states `s` (named by their start vectors), with the gradient of the specification."""
    word, H, L, s = arch["name"].split("@")[0].split(".")[-1], arch.get("H_cycles", 0), arch.get("L_cycles", 0), dict(s)

    def run(level: str, x: Tensor) -> Tensor:
        return net(w, arch, level, x)

    if word == "transformers_baseline":
        return {"H_init": run("H", s["H_init"] + e)}
    for round_ in range(H):
        with torch.set_grad_enabled(round_ == H - 1 and word != "hrm"):
            for i in range(L):
                if word == "trm":
                    s["L_init"] = run("L", s["L_init"] + s["H_init"] + e)
                if word == "trm_singlez":
                    s["L_init"] = run("L", s["L_init"] + e)
                if word == "trm_hier6":
                    s[f"L{i + 1}_init"] = run("L", six(s) + s["H_init"] + e)
                if word == "hrm":
                    with torch.set_grad_enabled(round_ == H - 1 and i == L - 1):
                        s["L_init"] = run("L", s["L_init"] + s["H_init"] + e)
            if word == "trm":
                s["H_init"] = run("L", s["H_init"] + s["L_init"])
            if word == "trm_singlez":
                s["L_init"] = run("L", s["L_init"])
            if word == "trm_hier6":
                s["H_init"] = run("L", s["H_init"] + six(s))
        if word == "hrm":
            with torch.set_grad_enabled(round_ == H - 1):
                s["H_init"] = run("H", s["H_init"] + s["L_init"])
    return s


def six(s: Mapping[str, Tensor]) -> Tensor:
    return s["L1_init"] + s["L2_init"] + s["L3_init"] + s["L4_init"] + s["L5_init"] + s["L6_init"]


def read_out(w: Weights, arch: Mapping[str, Any], s: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of the grid, halt logit, continue logit."""
    y = s["L_init"] if "trm_singlez" in arch["name"] else s["H_init"]
    q = y[:, 0] @ w["inner.q_head.weight"].T + w["inner.q_head.bias"]
    return y[:, -arch["seq_len"] :] @ w["inner.lm_head.weight"].T, q[:, 0], q[:, 1]
