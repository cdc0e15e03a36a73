"""The batch size of an inference: found by the memory of a GPU, and halved where this does not suffice.

The memory and its errors are simulated: the network runs on the CPU.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.networks import halting_network, inference_config
from trm.config.inference import InferenceConfig
from trm.config.model import ModelParams
from trm.datasets.sudoku.dataset import sudoku_meta
from trm.inference import cost, engine
from trm.inference.batch_size import BatchSize
from trm.inference.cost import resolve_batch_size
from trm.inference.engine import InferenceEngine, Predictions, Verifier, predict
from trm.models.act import TRM
from trm.stages.params import load_recipe
from trm.utils.errors import ParamsError
from trm.utils.memory import GpuMemory, gpu_memory

META = sudoku_meta(4)
COUNT = 12
"""Sequences; three of each puzzle."""
Limit = Callable[[int], list[int]]


@pytest.fixture
def model(model_params: ModelParams) -> TRM:
    return halting_network(model_params, META)


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Limit:
    """Limits the sequences for which the GPU has memory; returns the sizes of the batches that are started."""

    def limited(most: int) -> list[int]:
        sizes: list[int] = []

        class Limited(InferenceEngine):
            def __init__(self, model: TRM, tokens: np.ndarray, *rest: object) -> None:
                sizes.append(len(tokens))
                super().__init__(model, tokens, *rest)  # pyright: ignore[reportArgumentType]

            def step(self) -> engine.Outputs:
                outputs = super().step()
                if sizes[-1] > most:  # after some of the results
                    raise torch.OutOfMemoryError("CUDA out of memory")
                return outputs

        monkeypatch.setattr(engine, "InferenceEngine", Limited)
        return sizes

    return limited


def answers(model: TRM, config: InferenceConfig, batch: int | BatchSize, **more: object) -> Predictions:
    tokens = np.random.default_rng(0).integers(1, 6, (COUNT, 16)).astype(np.uint8)
    verifier = Verifier(META, tokens) if config.verify else None
    options = {"seeds": [[row] for row in range(COUNT)], "puzzles": np.arange(COUNT) // 3, "verifier": verifier}
    return predict(model, tokens, np.zeros(COUNT, int), config, batch, **{**options, **more})  # pyright: ignore


CONFIGS = {
    "default": inference_config(4),
    "early_halting": inference_config(6, early_halting=True),
    "samples": inference_config(4, num_samples=2, latent_noise_std=0.5, early_halting=True),
    "verify": inference_config(4, verify=True),
    "halt_first": inference_config(4, selection="halt_first"),
    "settled": inference_config(3, num_samples=2, latent_noise_std=0.5, selection="settled"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_answers_do_not_depend_on_the_memory(
    model: TRM, limit: Limit, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """The batch of 12 sequences (24 with samples) is halved until it fits into the memory for 8."""
    expected = answers(model, CONFIGS[name], 64)
    assert len(set(expected.tokens.tobytes())) > 1
    sizes = limit(8)
    done: list[int] = []
    found = answers(model, CONFIGS[name], 64, advance=done.append)
    for field in ("tokens", "halt_step", "steps", "settled"):
        assert np.array_equal(getattr(found, field), getattr(expected, field)), field
    for field in ("halt_logit", "score"):  # oneDNN of torch 2.11 rounds small batches differently
        assert getattr(found, field) == pytest.approx(getattr(expected, field), abs=1e-5)
    samples = CONFIGS[name].num_samples
    assert sizes == {1: [12, 6, 6], 2: [24, 12, 6, 6, 6, 6]}[samples]
    assert sum(done) == COUNT
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"{size} sequences at a time exceed the memory of the GPU; the batch size is now {size // 2}"
        for size in sizes
        if size > 8
    ]


def test_puzzles_whose_sequences_stop_each_other_are_not_divided(model: TRM, limit: Limit) -> None:
    """A batch ends with a puzzle of three sequences, also where it would be larger than the size."""
    sizes = limit(4)
    answers(model, CONFIGS["verify"], 8)
    assert sizes == [9, 6, 3, 3, 3, 3]
    with pytest.raises(torch.OutOfMemoryError):
        limit(2)
        answers(model, CONFIGS["verify"], 8)


def test_the_reduced_size_is_kept(model: TRM, limit: Limit) -> None:
    size, sizes = BatchSize(12), limit(5)
    answers(model, CONFIGS["default"], size)
    assert (size.size, sizes) == (3, [12, 6, 3, 3, 3, 3])
    answers(model, CONFIGS["default"], size)
    assert sizes[6:] == [3, 3, 3, 3]


def test_a_single_sequence_that_exceeds_the_memory(model: TRM, limit: Limit) -> None:
    sizes = limit(0)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        answers(model, CONFIGS["default"], 4)
    assert sizes == [4, 2, 1]


def test_a_batch_whose_steps_are_shown_is_not_repeated(model: TRM, limit: Limit) -> None:
    sizes = limit(8)
    with pytest.raises(torch.OutOfMemoryError):
        answers(model, CONFIGS["default"], 64, on_trace=lambda _: None)
    assert sizes == [12]


class Memory(GpuMemory):
    """A GPU on which a batch needs some bytes for each sequence."""

    def __init__(self, free: int, of_sequence: int) -> None:
        super().__init__(torch.device("cuda"))
        self._free, self._of_sequence, self.batches = free, of_sequence, []

    def free(self) -> int:
        return self._free

    def peak(self, compute: Callable[[], object]) -> int:
        sizes: list[int] = []
        step = InferenceEngine.step

        def counted(self: InferenceEngine) -> engine.Outputs:
            outputs = step(self)
            sizes.append(len(outputs[0]))
            return outputs

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(InferenceEngine, "step", counted)
            compute()
        assert len(sizes) == 1, "a step is measured"
        return sizes[0] * self._of_sequence


@pytest.mark.parametrize(
    ("free", "of_sequence", "expected"),
    [
        (1_000_000, 100, 4096),  # 70 % hold 7,000 sequences
        (1_000_000, 85, 8192),  # 8,235
        (10**12, 100, 8192),  # the largest
        (300, 100, 2),
        (150, 100, 1),
        (10, 100, 1),
        (1000, 0, 512),  # nothing could be measured
    ],
)
@pytest.mark.parametrize("config", [CONFIGS["default"], CONFIGS["samples"]], ids=str)
def test_auto_is_a_power_of_two_that_fits_into_the_memory(
    model: TRM, monkeypatch: pytest.MonkeyPatch, config: InferenceConfig, free: int, of_sequence: int, expected: int
) -> None:
    memory = Memory(free, of_sequence)
    monkeypatch.setattr(cost, "gpu_memory", lambda _: memory)
    assert resolve_batch_size("auto", model, config) == expected
    assert resolve_batch_size(7, model, config) == 7


def test_auto_with_too_little_memory_to_measure(model: TRM, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(Memory):
        def peak(self, compute: Callable[[], object]) -> int:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(cost, "gpu_memory", lambda _: Full(10**9, 1))
    assert resolve_batch_size("auto", model, CONFIGS["default"]) == 1


def test_the_setting() -> None:
    assert load_recipe("sudoku-6x6").evaluate.batch_size == 64
    assert load_recipe("sudoku-6x6", {"evaluate.batch_size": "auto"}).evaluate.batch_size == "auto"
    for value, expected in {0: "greater than or equal to 1. Got 0", "most": "a valid integer. Got 'most'"}.items():
        with pytest.raises(ParamsError, match=f"evaluate.batch_size must be 'auto' or {expected}"):
            load_recipe("sudoku-6x6", {"evaluate.batch_size": value})


def test_auto_without_cuda(model: TRM) -> None:
    assert resolve_batch_size("auto", model, CONFIGS["default"]) == 64
    assert gpu_memory(torch.device("cpu")) is None
    assert gpu_memory(torch.device("mps")) is None
    assert isinstance(gpu_memory(torch.device("cuda", 0)), GpuMemory)


def test_the_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that PyTorch has cached is free. The first computation, with what libraries keep, is not measured."""
    allocated, calls = [500], []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 8000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 700)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: allocated[0])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: calls.append("reset"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: allocated[0] + 90)
    memory = GpuMemory(torch.device("cuda", 0))
    assert memory.free() == 1000 + (700 - 500)

    def compute() -> None:
        calls.append("compute")
        allocated[0] = 550

    assert memory.peak(compute) == 90
    assert calls == ["compute", "reset", "compute"]
