"""Export the EMA weights of the default experiment to `trm/inference/demo_model`, the model of `trm demo`.

Run in the repository root after `make repro`. The README.md next to the weights documents their origin.
"""

import json
from pathlib import Path

from trm.storage.artifacts import MANIFEST, verified_manifest, write_manifest
from trm.training.checkpoint import FILE, load_checkpoint, write_tensors

OUTPUTS, DEMO = Path("outputs"), Path("trm/inference/demo_model")

README = """# Model of `trm demo`

EMA weights of the default experiment, 6x6 Sudoku (`recipes/sudoku-6x6.yaml`, `train.seed` {seed}), in float32.
`checkpoint.safetensors` contains the weights and their settings, and no executable code.

    trm recipe use sudoku-6x6 && trm fetch && trm augment && trm train && trm evaluate
    python scripts/demo_model.py

| | |
|---|---|
| content key of the model | `{key}` |
| content key of the evaluation | `{evaluation_key}` |
| exact accuracy on {puzzles} test puzzles | {exact:.1%}; with {votes} votes: {voted:.1%} |
| parameters | {parameters:,} |
| trained on | {device}, {precision}, torch {torch}, {processes} process of {threads} thread |
"""


def main() -> None:
    """Write `trm/inference/demo_model` from `outputs`."""
    trained = verified_manifest(OUTPUTS / "model", "train")
    evaluated = verified_manifest(OUTPUTS / "evaluation", "evaluate")
    metrics = json.loads((OUTPUTS / "evaluation/metrics.json").read_text(encoding="utf-8"))
    facts = {"key": trained["key"], "exact_accuracy": metrics["exact_accuracy"]}
    model, meta = load_checkpoint(OUTPUTS / "model")
    tensors = {f"ema.{name}": value for name, value in model.named_parameters()}
    tensors |= {name: value for name, value in model.state_dict().items() if f"ema.{name}" not in tensors}
    header = {"model": model.config.model_dump(mode="json"), "meta": meta.model_dump(mode="json"), "facts": facts}
    DEMO.mkdir(exist_ok=True)
    write_tensors(DEMO / FILE, tensors, header)
    (DEMO / FILE).chmod(0o644)  # safetensors creates files that only the owner can read
    readme = README.format(
        **trained["facts"],
        seed=trained["params"]["train"]["seed"],
        key=trained["key"],
        evaluation_key=evaluated["key"],
        torch=trained["versions"]["torch"],
        exact=metrics["exact_accuracy"],
        voted=metrics["pass@1"],
        votes=metrics["num_votes"],
        puzzles=metrics["puzzles"],
    )
    (DEMO / "README.md").write_text(readme, encoding="utf-8")
    (DEMO / MANIFEST).unlink(missing_ok=True)
    names = ("stage", "key", "params", "inputs", "modules", "versions", "facts")
    write_manifest(DEMO, {name: trained[name] for name in names})


if __name__ == "__main__":
    main()
