"""All measurements of a GPU in one go.

    python -m benchmarks.gpu --minutes 4 --out gpu-results

Writes DIR/gpu.json after each part, and DIR/gpu.md at the end. The parts, in order, until the time is over:

- parity: largest differences of logits, loss and gradients from float32 on the CPU, relative to the largest value
- products: speed of a large matrix product, the peak that the utilization of a step is compared with
- optimizers: an optimizer step of the model of `sudoku-extreme-mlp`: this project's and that of the package adam-atan2
- steps: `benchmarks.train_step` at the published batch sizes, eager, compiled, and compiled with CUDA graphs; `waits`:
  how often a training step waits for the GPU, by `torch.cuda.set_sync_debug_mode`
- resume: a training that is killed and resumed, against one that is not: first with `train.deterministic`, where the
  bytes must be equal, then without; and the share of the time in which the GPU has waited, by the speed of the whole
  training against that of its steps

A part that fails does not end the others; gpu.json has its traceback. The exit code is then 1, and also if the bytes
differ with `train.deterministic`.

`--device cpu` tests this program: the sizes are small then.
"""

import argparse
import copy
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.train_step import CASES, Case, Timed, peak_memory, seconds_of
from trm.config.training import TrainParams
from trm.models.act import build_model
from trm.stages.params import load_recipe
from trm.storage.artifacts import timing_file
from trm.training.checkpoint import FILE as CHECKPOINT
from trm.training.losses import supervision_loss
from trm.training.optimizers import network_optimizers
from trm.utils.device import resolve_device
from trm.utils.errors import UserError

PUBLISHED_BATCH = {"sudoku-mlp": 768, "arc-att": 96, "small": 768, "default": 32}
"""Sequences of a step on one GPU; arc-att: 768 are divided among eight."""
PRECISIONS = ("float32", "bfloat16")
MINUTE = 60


def settings_for(device: str, precision: str) -> TrainParams:
    """The training settings of the default experiment."""
    return load_recipe("sudoku-6x6").train.model_copy(update={"device": device, "precision": precision})


def parity(device: torch.device) -> Iterator[dict[str, Any]]:
    """Differences from the CPU, float32 with and without TF32, and bfloat16."""
    for name, batch in {"small": 8, "sudoku-mlp": 8, "arc-att": 1}.items():
        case = replace(CASES[name], batch=batch)
        expected = outputs(case, "cpu", "float32")
        for precision, tf32 in [("float32", "ieee"), ("float32", "tf32"), ("bfloat16", "tf32")]:
            resolve_device(device.type)
            torch.backends.cuda.matmul.fp32_precision = tf32
            found = outputs(case, device.type, precision)
            differences = {key: difference(found[key], expected[key]) for key in expected}
            yield {"case": name, "precision": precision, "products": tf32, **differences}
    resolve_device(device.type)


def outputs(case: Case, device: str, precision: str) -> dict[str, Tensor]:
    """Logits, loss and all gradients of the first step, on the CPU in float32."""
    timed = Timed("parity", case, None, settings_for(device, precision), compiled=False)
    model = timed.state.model
    carry, out = model(timed.state.carry, timed.batch, torch.ones(timed.settings.global_batch_size, device=device))
    losses = supervision_loss(carry, out, "stablemax", timed.settings.global_batch_size)
    losses.total.backward()
    gradients = [weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]
    found = {"logits": out.logits, "loss": losses.total, "gradients": torch.cat(gradients)}
    return {name: tensor.detach().float().cpu() for name, tensor in found.items()}


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float(f"{((found - expected).abs().max() / expected.abs().max()).item():.2e}")


def products(device: torch.device, size: int) -> Iterator[dict[str, Any]]:
    """TFLOP/s of a product of two square matrices."""
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        seconds = sorted(seconds_of(partial(torch.mm, a, b), device) for _ in range(8))[1]
        tflops = round(2 * size**3 / seconds / 1e12, 3)
        yield {"size": size, "precision": str(dtype).removeprefix("torch."), "tflops": tflops}


def optimizers(device: torch.device, case: Case) -> Iterator[dict[str, Any]]:
    """Median time of ten steps of Adam-atan2, in PyTorch and in the package, and the difference of the weights."""
    start, settings, expected = build_model(case.model(), case.meta()), settings_for(device.type, "float32"), None
    for fused in (False, True):
        model, row = copy.deepcopy(start).to(device), {"optimizer": "package adam-atan2" if fused else "AdamAtan2"}
        network = settings.optimizer.network.model_copy(update={"fused": fused})
        optimizer = settings.optimizer.model_copy(update={"network": network})
        try:
            (chosen,) = network_optimizers(model, settings.model_copy(update={"optimizer": optimizer}))
        except UserError as error:
            yield {**row, "error": str(error)}
            return
        generator, seconds = torch.Generator().manual_seed(0), []
        for _ in range(10):
            for weight in model.parameters():
                weight.grad = torch.randn(weight.shape, generator=generator).to(device)
            for group in chosen.param_groups:
                group["lr"] = settings.lr
            seconds.append(seconds_of(chosen.step, device))
        weights = torch.cat([weight.detach().flatten() for weight in model.parameters()])
        if expected is not None:
            row["largest_weight_difference"] = f"{(weights - expected).abs().max().item():.2e}"
        yield {**row, "seconds": round(statistics.median(seconds), 6)}
        expected = weights


def steps(device: torch.device, count: int, deadline: float) -> Iterator[dict[str, Any]]:
    """Step times of all cases. Those that exceed the memory are reported as such, and errors of CUDA graphs, too."""
    is_gpu = device.type == "cuda"
    for name in ("sudoku-mlp", "arc-att", "small", "default") if is_gpu else ("default",):
        for precision in reversed(PRECISIONS):
            for mode in ("eager", "compiled", "graphs") if is_gpu else ("eager",):
                if time.monotonic() > deadline:
                    return
                tried = {"case": name, "precision": precision, "mode": mode, "batch": PUBLISHED_BATCH[name]}
                try:
                    yield tried | step_times(name, settings_for(device.type, precision), mode, count)
                except torch.OutOfMemoryError:
                    yield tried | {"memory": "exceeded"}
                except Exception as error:
                    failed = failure(error)
                    yield tried | ({"error": failed["error"]} if mode == "graphs" else failed)


def step_times(name: str, settings: TrainParams, mode: str, count: int) -> dict[str, Any]:
    """The measurements of a case in `count` steps: of the published batch size on CUDA, of a small one on the CPU."""
    device, started = resolve_device(settings.device), time.monotonic()
    is_gpu = device.type == "cuda"
    if is_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    batch = PUBLISHED_BATCH[name] if is_gpu else None
    timed = Timed(name, CASES[name], batch, settings, compiled=mode == "compiled")
    if mode == "graphs":
        use_graphs(timed)
    timed.step()
    first, memory = time.monotonic() - started, peak_memory(device)
    for _ in range(count):
        torch.compiler.cudagraph_mark_step_begin()  # outputs of the step before may be overwritten
        timed.step()
    result = timed.result() | {"compiled": mode != "eager", "peak_memory_bytes": memory}
    if is_gpu:
        torch.compiler.cudagraph_mark_step_begin()
        result["waits"] = waits_of(timed.train)
    return result | {"first_step_seconds": round(first, 1)}


def waits_of(run: Callable[[], object]) -> int:
    """How often `run` waits for the GPU, of the operations that PyTorch can detect."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in found)


def use_graphs(timed: Timed) -> None:
    """Compile the passes with CUDA graphs, which `trm` does not use: this measures what they would gain."""
    for model in (timed.state.model, timed.average):
        vars(model)["net"] = torch.compile(model.net, mode="reduce-overhead")


def resume(device: torch.device, deadline: float) -> Iterator[dict[str, Any]]:
    """Train twice; kill and resume the second training. Both have the same settings and data."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        trm(folder, "a", "init", "sudoku-4x4")
        for stage in ("fetch", "augment"):
            trm(folder, "a", stage)
        yield killed_and_resumed(folder, device, deterministic=True)
        if time.monotonic() > deadline:
            return
        result = killed_and_resumed(folder, device, deterministic=False)
        timed = Timed("resume", Case("sudoku-4x4", 32, {}), None, settings_for(device.type, "float32"), compiled=False)
        for _ in range(20):
            timed.step()
        busy = result["steps_per_second"] * timed.result()["train_seconds"]
        yield result | {"time_outside_steps": round(max(1 - busy, 0), 3)}


def killed_and_resumed(folder: Path, device: torch.device, deterministic: bool) -> dict[str, Any]:
    """The difference between a whole training and one that is killed and resumed, in a folder with a dataset."""
    epochs, name = 30 if device.type == "cuda" else 2, str(deterministic).lower()
    settings = {"device": device.type, "epochs": epochs, "deterministic": name, "checkpoint_interval": 20}
    options = [f"--set=train.{key}={value}" for key, value in settings.items()]
    model, states = folder / "outputs/model", folder / f"killed-{name}"
    started = time.monotonic()
    trm(folder, f"whole-{name}", "train", *options)
    seconds = time.monotonic() - started
    whole, timing = load_file(model / CHECKPOINT), json.loads(timing_file(model).read_text())
    model.rename(folder / f"model-{name}")
    killed = start(folder, states.name, "train", *options)
    while killed.poll() is None and not list(states.glob("*/state-*")):
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    trm(folder, states.name, "train", *options)
    resumed = load_file(model / CHECKPOINT)
    model.rename(folder / f"resumed-{name}")
    differences = [(tensor.float() - resumed[name].float()).abs().flatten() for name, tensor in whole.items()]
    return {
        "deterministic": deterministic,
        "seconds": round(seconds, 1),
        "steps_per_second": timing["steps_per_second"],
        "bytes_equal": whole.keys() == resumed.keys() and all(torch.equal(whole[key], resumed[key]) for key in whole),
        "largest_weight_difference": torch.cat(differences).max().item(),
    }


def start(folder: Path, states: str, *command: str) -> subprocess.Popen[bytes]:
    """Start a command of `trm` in the folder."""
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "TRM_STATE_DIR": str(folder / states)}
    return subprocess.Popen(
        [sys.executable, "-m", "trm", *command], cwd=folder, env=environment, stdout=subprocess.DEVNULL
    )


def trm(folder: Path, states: str, *command: str) -> None:
    """Run a command of `trm` in the folder."""
    if start(folder, states, *command).wait():
        raise UserError(f"trm {' '.join(command)} failed")


def caught(measure: Callable[[], Iterator[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """The rows of a part, and if it fails one more with the error: a lent machine may be gone before a second run."""
    try:
        yield from measure()
    except Exception as error:
        yield failure(error)


def failure(error: Exception) -> dict[str, Any]:
    """The row for an error."""
    message = str(error).partition("\n")[0]
    return {"error": f"{type(error).__name__}: {message}", "traceback": "".join(traceback.format_exception(error))}


def markdown(results: dict[str, Any]) -> str:
    """The results as tables."""
    lines = [f"# {results['device']}", "", f"torch {results['torch']}, {results['seconds']:.0f} s in all", ""]
    for name, rows in results["parts"].items():
        columns = list(dict.fromkeys(key for row in rows for key in row if key != "traceback"))
        lines += [f"## {name}", "", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
        lines += ["| " + " | ".join(str(row.get(key, "")) for key in columns) + " |" for row in rows]
        lines.append("")
    lines += [f"Not measured, for lack of time: {', '.join(results['skipped']) or 'nothing'}.", ""]
    return "\n".join(lines)


def main() -> None:
    """Measure all parts and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=4, help="no part starts after this time (default: 4)")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), metavar="DIR", help="default: gpu-results")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options = parser.parse_args()
    try:
        device = resolve_device(options.device)
    except UserError as error:
        parser.error(str(error))
    started = time.monotonic()
    deadline = started + MINUTE * options.minutes
    is_gpu = device.type == "cuda"
    parts: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "parity": lambda: parity(device),
        "products": lambda: products(device, 8192 if is_gpu else 512),
        "optimizers": lambda: optimizers(device, CASES["sudoku-mlp" if is_gpu else "default"]),
        "steps": lambda: steps(device, 10 if is_gpu else 3, deadline),
        "resume": lambda: resume(device, deadline),
    }
    name = torch.cuda.get_device_name(device) if is_gpu else "CPU"
    results: dict[str, Any] = {"device": name, "torch": torch.__version__, "parts": {}, "skipped": []}
    failed: set[str] = set()
    options.out.mkdir(parents=True, exist_ok=True)
    for part, measure in parts.items():
        if time.monotonic() > deadline:
            results["skipped"].append(part)
            continue
        rows = results["parts"][part] = []
        for row in caught(measure):
            rows.append(row)
            failed |= {part} if "traceback" in row else set()
            print(json.dumps({"part": part, **row}), flush=True)
            results["seconds"] = round(time.monotonic() - started, 1)
            (options.out / "gpu.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (options.out / "gpu.md").write_text(markdown(results), encoding="utf-8")
    if failed:
        raise SystemExit(f"failed: {', '.join(sorted(failed))}; {options.out / 'gpu.json'} has the tracebacks")
    if any(row["deterministic"] and not row["bytes_equal"] for row in results["parts"].get("resume", [])):
        raise SystemExit("the bytes of a resumed training differ, although train.deterministic is true")


if __name__ == "__main__":
    main()
