"""ONNX files give the answers of the model, for every kind of network, batch size and number of steps."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from trm.config.dataset_meta import DatasetMeta
from trm.config.inference import DEFAULT_INFERENCE
from trm.config.model import LmaParams, ModelParams
from trm.exporting.modules import StartModule
from trm.exporting.onnx_model import solve_model, start_model, step_model
from trm.exporting.onnx_session import open_session
from trm.exporting.quantization import quantize, quantized
from trm.inference.engine import predict
from trm.models.act import TRM, build_model

ATTENTION = {"mlp_t": False, "pos_encodings": "rope"}
VARIANTS: dict[str, dict[str, Any]] = {
    "attention": {**ATTENTION, "puzzle_emb_ndim": 20, "puzzle_emb_len": 2, "register_tokens": 1},
    "hrm": {**ATTENTION, "arch": "hrm", "q_continue_loss": True, "pos_encodings": "learned", "random_start": "all"},
    "mlp, single z": {"arch": "trm_singlez", "swiglu": "normed", "update_damping": 0.1},
    "latent": {**ATTENTION, "lma": LmaParams(enable=True, mode="clean", length=8, dim=8, heads=2)},
}


def network(params: ModelParams, meta: DatasetMeta, changes: dict[str, Any]) -> TRM:
    """A network with random weights, whose sequences halt after different numbers of steps."""
    model = build_model(params.model_copy(update=changes), meta, seed=1)
    with torch.no_grad():
        model.q_head.weight.normal_(std=2.0, generator=torch.Generator().manual_seed(0))
        assert model.q_head.bias is not None
        model.q_head.bias.fill_(-2)
        model.puzzle_table.normal_(generator=torch.Generator().manual_seed(0))
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_answers_are_those_of_the_model(model_params: ModelParams, meta: DatasetMeta, name: str) -> None:
    model = network(model_params, meta, VARIANTS[name])
    start, step = start_model(model), step_model(model)
    session = open_session(solve_model(model, start, step).SerializeToString())
    tokens = np.random.default_rng(0).integers(1, meta.vocab_size, (7, meta.seq_len), np.uint8)
    taken = set[int]()
    for batch, max_steps, early_halting in ((7, 4, False), (7, 6, True), (1, 1, False)):
        config = DEFAULT_INFERENCE.model_copy(update={"max_steps": max_steps, "early_halting": early_halting})
        expected = predict(model, tokens[:batch], np.zeros(batch, np.int64), config, 64)
        inputs = {"max_steps": np.array(max_steps), "early_halting": np.array(early_halting)}
        outputs = session.run(None, {"tokens": tokens[:batch].astype(np.int64), **inputs})
        answer, halt_logit, steps = map(np.asarray, outputs)
        assert np.array_equal(answer, expected.tokens)
        assert halt_logit == pytest.approx(expected.halt_logit, abs=0.02)  # passes amplify the rounding
        assert np.array_equal(steps, expected.steps)
        taken |= set(steps.tolist())
    assert len(taken) > 1  # some halt early


@pytest.mark.slow
def test_one_step(model_params: ModelParams, meta: DatasetMeta) -> None:
    """The states, logits and halting logits of a step; nothing in the file names this machine."""
    model = network(model_params, meta, {})
    proto = step_model(model)
    assert [each.name for each in proto.graph.input] == ["x", "y", "z"]
    session = open_session(proto.SerializeToString())
    tokens = torch.from_numpy(np.random.default_rng(0).integers(1, meta.vocab_size, (3, meta.seq_len)))
    with torch.no_grad():
        x, y, z = StartModule(model)(tokens)
        states = model.deep_recursion(x, {"y": y, "z": z})
        expected = [states["y"], states["z"], *model.read_out(states)]
    outputs = session.run(None, {"x": x.numpy(), "y": y.numpy(), "z": z.numpy()})
    for output, tensor in zip(outputs, expected, strict=True):
        assert np.asarray(output) == pytest.approx(tensor.numpy(), abs=1e-4)
    assert b".py" not in proto.SerializeToString()


def test_quantized_matrix() -> None:
    """Values by hand: the largest value of each channel is 127 steps."""
    matrix = np.array([[1.27, 0.0, -0.624], [0.0, 0.0, 0.0]], np.float32)
    integers, scale = quantize(matrix, axis=0)
    assert integers.tolist() == [[127, 0, -62], [0, 0, 0]]
    assert scale == pytest.approx([0.01, 1.0])
    integers, scale = quantize(matrix, axis=1)
    assert integers.tolist() == [[127, 0, -127], [0, 0, 0]]
    assert scale == pytest.approx([0.01, 1.0, 0.624 / 127])


def test_quantized_model() -> None:
    """Large matrices are INT8 with a scale for each output channel, others stay; the product is nearly the same."""
    rng = np.random.default_rng(0)
    large, small = rng.normal(size=(40, 30)).astype(np.float32), rng.normal(size=(30, 2)).astype(np.float32)
    large[:, 3] *= 100  # its own scale: the other channels remain exact
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "large"], ["h"]),
        onnx.helper.make_node("MatMul", ["h", "small"], ["y"]),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "two",
        [value("x", onnx.TensorProto.FLOAT, [1, 40])],
        [value("h", onnx.TensorProto.FLOAT, [1, 30]), value("y", onnx.TensorProto.FLOAT, [1, 2])],
        [onnx.numpy_helper.from_array(large, "large"), onnx.numpy_helper.from_array(small, "small")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    result = quantized(model)
    onnx.checker.check_model(result, full_check=True)
    assert {each.name: each.data_type for each in result.graph.initializer} == {
        "small": onnx.TensorProto.FLOAT,
        "large/int8": onnx.TensorProto.INT8,
        "large/scale": onnx.TensorProto.FLOAT,
    }
    assert len(model.graph.initializer) == 2  # the original is unchanged
    x = rng.normal(size=(1, 40)).astype(np.float32)
    outputs = open_session(result.SerializeToString()).run(None, {"x": x})
    h, y = map(np.asarray, outputs)
    step = np.abs(large).max(axis=0) / 127
    assert (np.abs(h - x @ large) <= np.abs(x).sum() * step / 2 + 1e-4).all()
    assert y == pytest.approx(h @ small, abs=1e-3)


def test_the_runtime_writes_no_id_of_the_device(tmp_path: Path) -> None:
    code = (
        "from trm.exporting.onnx_session import open_session\ntry: open_session(b'')\nexcept Exception: print('opened')"
    )
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"} | home
    done = subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True, text=True)
    assert done.stdout == "opened\n"
    assert list(tmp_path.iterdir()) == []
