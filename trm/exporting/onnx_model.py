"""ONNX files of a model: one supervision step, and the whole loop with halting inside the graph.

`step.onnx`: x and states -> states, logits, halting logits. `solve.onnx`: tokens -> answer. Its Loop operator contains
the graph of the step (https://onnx.ai/onnx/operators/onnx__Loop.html); a batch ends when all its sequences have halted.
"""

import logging
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, compose, helper, numpy_helper
from torch import Tensor, nn

from trm.exporting.modules import StartModule, StepModule, batch_shapes, example_tokens
from trm.models.act import TRM

OPSET = 18
"""Version of the operators, which ONNX Runtime Web and older runtimes support completely."""
IR_VERSION = 10
_FLOAT, _INT, _BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def start_model(model: TRM) -> ModelProto:
    """The question x and the states before the first step, float32 [B, S, D] each, from `tokens` int64 [B, L]."""
    outputs = ["x", *(f"start_{name}" for name in model.variant.states)]
    return _exported(StartModule(model), (example_tokens(model),), ["tokens"], outputs)


def step_model(model: TRM) -> ModelProto:
    """One supervision step.

    Inputs: x and the states, float32 [B, S, D] each. Outputs: the states (`next_<name>`), `logits` float32 [B, L, V],
    `halt_logit` and `continue_logit` float32 [B].
    """
    names = model.variant.states
    with torch.no_grad():
        x, *states = StartModule(model)(example_tokens(model))
    outputs = [*(f"next_{name}" for name in names), "logits", "halt_logit", "continue_logit"]
    return _exported(StepModule(model), (x, *states), ["x", *names], outputs)


def solve_model(model: TRM, start: ModelProto, step: ModelProto) -> ModelProto:
    """The whole loop, composed of `start_model` and `step_model`.

    Inputs: `tokens` int64 [B, L], `max_steps` int64, `early_halting` bool. Outputs: `answer` int64 [B, L] (tokens),
    `halt_logit` float32 [B], `steps` int64 [B]. A sequence that halts keeps its answer.
    """
    names, L = model.variant.states, model.meta.seq_len
    start, step = compose.add_prefix(start, "start/"), compose.add_prefix(step, "step/")
    _rename(start.graph, {"start/tokens": "tokens"})
    _rename(step.graph, {"step/x": "start/x"})
    carried = {
        **{f"step/{name}": (f"step/next_{name}", _FLOAT, ["batch", None, None]) for name in names},
        "loop/answer": ("loop/next_answer", _INT, ["batch", L]),
        "loop/halt_logit": ("loop/next_halt_logit", _FLOAT, ["batch"]),
        "loop/halted": ("loop/next_halted", _BOOL, ["batch"]),
        "loop/steps": ("loop/next_steps", _INT, ["batch"]),
    }
    """Value of the loop -> its next value, type and shape."""
    constant, repeated = _split(step)
    body = helper.make_graph(
        [*repeated, *_halting_nodes("step/continue_logit" if model.config.uses_q_continue else "zero")],
        "supervision_step",
        [
            _value("loop/number", _INT, []),
            _value("loop/continues", _BOOL, []),
            *(_value(before, kind, shape) for before, (_, kind, shape) in carried.items()),
        ],
        [
            _value("loop/next_continues", _BOOL, []),
            *(_value(after, kind, shape) for after, kind, shape in carried.values()),
        ],
    )
    first = [*(f"start/start_{name}" for name in names), "no_answer", "no_logit", "not_halted", "no_steps"]
    last = [*(f"last_{name}" for name in names), "answer", "halt_logit", "halted", "steps"]
    nodes = [
        *start.graph.node,
        *constant,
        helper.make_node("Mul", ["tokens", "zero_int"], ["no_answer"]),
        helper.make_node("ReduceMax", ["no_answer", "last_axis"], ["no_steps"], keepdims=0),
        helper.make_node("Cast", ["no_steps"], ["no_logit"], to=_FLOAT),
        helper.make_node("Cast", ["no_steps"], ["not_halted"], to=_BOOL),
        helper.make_node("Loop", ["max_steps", "yes", *first], last, body=body),
    ]
    constants = {"zero": np.float32(0), "zero_int": np.int64(0), "yes": np.bool_(True), "last_axis": np.array([-1])}
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(
        nodes,
        "solve",
        [_value("tokens", _INT, ["batch", L]), _value("max_steps", _INT, []), _value("early_halting", _BOOL, [])],
        [
            _value("answer", _INT, ["batch", L]),
            _value("halt_logit", _FLOAT, ["batch"]),
            _value("steps", _INT, ["batch"]),
        ],
        [*start.graph.initializer, *step.graph.initializer, *initializers],
    )
    return _checked(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION))


def _split(step: ModelProto) -> tuple[list[NodeProto], list[NodeProto]]:
    """The nodes that depend on weights only, which need not be repeated, and the others."""
    known = {tensor.name for tensor in step.graph.initializer}
    constant, repeated = list[NodeProto](), list[NodeProto]()
    for node in step.graph.node:
        if all(name in known for name in node.input if name):
            known |= set(node.output)
            constant.append(node)
        else:
            repeated.append(node)
    return constant, repeated


def _halting_nodes(threshold: str) -> list[NodeProto]:
    """The end of a supervision step: a sequence that has halted keeps its old values."""
    return [
        helper.make_node("ArgMax", ["step/logits"], ["loop/predicted"], axis=-1, keepdims=0),
        helper.make_node("Unsqueeze", ["loop/halted", "last_axis"], ["loop/halted_rows"]),
        helper.make_node("Where", ["loop/halted_rows", "loop/answer", "loop/predicted"], ["loop/next_answer"]),
        helper.make_node("Where", ["loop/halted", "loop/halt_logit", "step/halt_logit"], ["loop/next_halt_logit"]),
        helper.make_node("Not", ["loop/halted"], ["loop/active"]),
        helper.make_node("Cast", ["loop/active"], ["loop/active_int"], to=_INT),
        helper.make_node("Add", ["loop/steps", "loop/active_int"], ["loop/next_steps"]),
        helper.make_node("Greater", ["step/halt_logit", threshold], ["loop/halts"]),
        helper.make_node("And", ["loop/halts", "early_halting"], ["loop/stops"]),
        helper.make_node("Or", ["loop/halted", "loop/stops"], ["loop/next_halted"]),
        helper.make_node("Not", ["loop/next_halted"], ["loop/remains"]),
        helper.make_node("Cast", ["loop/remains"], ["loop/remains_int"], to=_INT),
        helper.make_node("ReduceMax", ["loop/remains_int"], ["loop/any_remains"], keepdims=0),
        helper.make_node("Cast", ["loop/any_remains"], ["loop/next_continues"], to=_BOOL),
    ]


def _value(name: str, kind: int, shape: Sequence[str | int | None]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Rename the inputs of nodes."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def _exported(module: nn.Module, inputs: tuple[Tensor, ...], names: list[str], outputs: list[str]) -> ModelProto:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter, about its own parts
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module.eval(),
            inputs,
            input_names=names,
            output_names=outputs,
            dynamic_shapes=batch_shapes(len(inputs)),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _remove_notes(model)
    return _checked(model)


def _remove_notes(model: ModelProto) -> None:
    """Remove stack traces, which name files of this machine, and the types of intermediate values."""
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:]
    for item in (*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output):
        del item.metadata_props[:]
        item.doc_string = ""
    model.producer_name, model.producer_version = "trm", ""


def _checked(model: ModelProto) -> ModelProto:
    onnx.checker.check_model(model, full_check=True)
    return model
