"""The calculation of `benchmarks.scaling` against real processes and real activations."""

import json
import os
import shutil
import subprocess
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.scaling import (
    PUBLISHED,
    Assumptions,
    Collective,
    Counts,
    Workload,
    carry_sizes,
    collectives,
    estimate,
    kept_activations,
    memory,
    table,
)
from tests.conftest import ROOT
from tests.params import params_text
from tests.preload import python
from trm.config.model import ModelParams
from trm.config.training import TrainParams
from trm.data.batches import total_steps
from trm.data.parquet import read_meta, read_split
from trm.models.act import build_model
from trm.stages.params import load_params
from trm.training.losses import supervision_loss

SETTINGS: dict[str, Any] = {
    "model.hidden_size": 16,
    "model.num_heads": 2,
    "model.expansion": 1,
    "model.L_cycles": 2,
    "model.puzzle_emb_ndim": 24,
    "model.puzzle_emb_len": 2,
    "train.epochs": 20,
    "train.global_batch_size": 8,
    "train.eval_interval": 1000,
    "train.log_interval": 2,
    "train.checkpoint_interval": 4,
    "train.compile": False,
    "train.precision": "float32",
    "train.device": "cpu",
}
FIRST, LAST = 5, 25
"""Steps that are counted, without the last one: a multiple of all intervals."""


def workload(params: Path, dataset: Path) -> Workload:
    """The training of a params file."""
    settings, split = load_params(params), read_split(dataset / "train")
    counts = Counts(**{name: split.counts()[name] for name in ("groups", "puzzles", "examples")}, identifiers=1)
    return Workload.of(settings.model, read_meta(dataset), settings.train, counts)


def expected_calls(messages: list[Collective], steps: int) -> Counter[tuple[str, int]]:
    """(operation, bytes) -> calls of a process in this number of steps."""
    calls: Counter[tuple[str, int]] = Counter()
    for message in messages:
        assert steps % message.every == 0
        for size in message.sizes:
            calls[message.operation, size] += steps // message.every
    return calls


def count(dataset: Path, folder: Path, processes: int, changes: dict[str, Any], isolated: bool) -> list[dict[str, Any]]:
    """What each process counts in 20 steps; if `isolated`, in a network namespace of their own."""
    params = folder / "params.yaml"
    params.write_text(params_text(SETTINGS | changes))
    network = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"] if isolated else []
    torchrun = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    torchrun += ["--master-addr=127.0.0.1"] if isolated else ["--standalone"]
    worker = ["-m", "tests.training.count_collectives", params, dataset, folder, str(FIRST), str(LAST)]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "TRM_STATE_DIR": str(folder / "states"),
    }
    environment |= {"PYTHON_EXEC": python()} | ({"GLOO_SOCKET_IFNAME": "lo"} if isolated else {})
    command = [*network, python(), *torchrun, *worker]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"calls-{rank}.json").read_text()) for rank in range(processes)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "changes"),
    [
        (1, {}),
        (4, {}),
        (2, {"model.arch": "hrm", "model.puzzle_emb_ndim": 0, "model.puzzle_emb_len": 0, "train.micro_batch_size": 2}),
    ],
    ids=["1", "4", "no puzzle table, micro-batches"],
)
def test_processes_exchange_what_is_calculated(
    dataset: Path, tmp_path: Path, processes: int, changes: dict[str, Any]
) -> None:
    """Every call of every process, with its bytes."""
    counted = count(dataset, tmp_path, processes, changes, isolated=False)
    work = workload(tmp_path / "params.yaml", dataset)
    expected = expected_calls(collectives(work, processes, state_item=4), LAST - FIRST)
    assert bool(expected) == (processes > 1)
    for each in counted:
        assert {(operation, size): number for operation, size, number in each["calls"]} == expected


@pytest.mark.slow
def test_bytes_between_processes(dataset: Path, tmp_path: Path) -> None:
    """The gradients of this network need two buckets. The processes send the bytes of a ring, plus headers."""
    processes = 4
    isolates = shutil.which("unshare") is not None and shutil.which("ip") is not None
    if not isolates or subprocess.run(["unshare", "--net", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this user cannot create network namespaces, in which the loopback device counts one training")
    changes = {"model.hidden_size": 256, "model.L_layers": 2, "model.mlp_t": False, "model.pos_encodings": "learned"}
    counted = count(dataset, tmp_path, processes, changes, isolated=True)
    work = workload(tmp_path / "params.yaml", dataset)
    messages = collectives(work, processes, state_item=4)
    assert [len(message.sizes) for message in messages if message.name == "gradients"] == [2]
    expected = expected_calls(messages, LAST - FIRST)
    for each in counted:
        assert {(operation, size): number for operation, size, number in each["calls"]} == expected
    sent = counted[0]["loopback_bytes"] / (LAST - FIRST) / processes
    assert sent == pytest.approx(sum(message.sent(processes) for message in messages), rel=0.03)


def test_steps_are_those_of_the_trainer(dataset: Path, model_params: ModelParams, train_params: TrainParams) -> None:
    split = read_split(dataset / "train")
    counts = Counts(**{name: split.counts()[name] for name in ("groups", "puzzles", "examples")}, identifiers=1)
    work = Workload.of(model_params, read_meta(dataset), train_params, counts)
    assert work.steps == total_steps(split, train_params.epochs, train_params.global_batch_size)


def test_sent_bytes_of_a_ring() -> None:
    """In a ring of n processes, all_gather passes n - 1 parts on; all_reduce also adds n - 1 parts."""
    assert Collective("", "all_gather", (800,)).sent(8) == 700
    assert Collective("", "all_reduce", (800,)).sent(8) == 1400
    assert Collective("", "all_reduce", (800, 80), every=10).sent(8) == 154
    assert Collective("", "all_reduce", (800,)).sent(1) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"mlp_t": True},
        {"mlp_t": False, "pos_encodings": "rope"},
        {"mlp_t": False, "pos_encodings": "learned"},
        {"mlp_t": True, "arch": "hrm"},
    ],
    ids=["mlp", "rope", "learned", "hrm"],
)
def test_kept_activations(dataset: Path, model_params: ModelParams, changes: dict[str, Any]) -> None:
    """The estimate counts the blocks only. Heads and loss add little to a network of realistic width."""
    sizes = {"hidden_size": 256, "num_heads": 4, "L_layers": 2, "H_layers": 2, "L_cycles": 4}
    meta = read_meta(dataset).model_copy(update={"height": 8, "width": 8})
    model = build_model(model_params.model_copy(update=sizes | changes), meta, dtype=torch.bfloat16)
    B, tokens = 5, torch.ones(5, meta.seq_len, dtype=torch.int32)
    batch = {"inputs": tokens, "labels": tokens, "puzzle_identifiers": torch.zeros(B, dtype=torch.int32)}
    activations = {B, B * meta.seq_len, B * sizes["hidden_size"]}  # a size that no weight has
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if activations & set(tensor.shape):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        carry, out = model.train()(model.initial_carry(batch), batch)
        losses = supervision_loss(carry, out, "stablemax", B)
    assert kept_activations(model) * B == pytest.approx(sum(kept.values()), rel=0.1)
    del losses


def test_carry(dataset: Path, model_params: ModelParams) -> None:
    meta = read_meta(dataset)
    model = build_model(model_params, meta, dtype=torch.bfloat16)
    tokens = torch.ones(1, meta.seq_len, dtype=torch.int32)
    batch = {"inputs": tokens, "labels": tokens, "puzzle_identifiers": torch.zeros(1, dtype=torch.int32)}
    tensors = model.initial_carry(batch).tensors()
    assert carry_sizes(model) == [tensor.nbytes for tensor in tensors.values()]


def test_estimate_of_a_recipe() -> None:
    """Time and memory per GPU fall with the number of GPUs; weights and table stay."""
    work, assumed = Workload.of_recipe("arc-agi-1"), Assumptions()
    assert set(PUBLISHED) >= {"arc-agi-1", "maze-hard"}
    rows = [estimate("arc-agi-1", work, processes, assumed) for processes in (1, 4, 8, 64)]
    assert all(one["hours"] > other["hours"] for one, other in pairwise(rows))
    assert rows[1]["hours"] == pytest.approx(72, rel=0.03)  # the published 3 days, from which the default speed is
    assert len({row["memory_bytes"]["puzzle table"] for row in rows}) == 1
    part, uses = memory(work, 1, limit=80e9)
    assert 768 % part == 0
    assert sum(uses.values()) < 80e9 < sum(uses.values()) + uses["activations"]
    slow = estimate("arc-agi-1", work, 64, Assumptions(network=0.1))
    assert slow["bottleneck"] == "gradients"


@pytest.mark.slow
def test_table_in_the_documentation_is_current() -> None:
    rows = [
        estimate(name, work, processes, Assumptions())
        for name in PUBLISHED
        for work in [Workload.of_recipe(name)]
        for processes in (1, 4, 8, 64)
    ]
    assert table(rows) in (ROOT / "docs/scaling.md").read_text(), (
        "replace it by what `python -m benchmarks.scaling` prints"
    )
