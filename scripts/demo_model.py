"""Makes the model that `trm demo` asks, `trm/demo`, of the default experiment: averaged weights alone.

To be run from the top of the repository after `make repro`. README.md beside the weights says where they come from.
"""

import json
from pathlib import Path

from trm.storage.artifacts import verified_manifest
from trm.training.checkpoint import FILE, load_checkpoint, write_tensors

OUTPUTS, DEMO = Path("outputs"), Path("trm/demo")

README = """# The model that `trm demo` asks

Averaged weights of the default experiment, 6x6 Sudoku (`recipes/sudoku-6x6.yaml`, `train.seed` {seed}), in float32.
`checkpoint.safetensors` holds them and their settings, and nothing that could be run.

    trm recipe use sudoku-6x6 && trm fetch && trm augment && trm train && trm evaluate
    python scripts/demo_model.py

| | |
|---|---|
| content key of the training | `{key}` |
| content key of the evaluation | `{evaluation_key}` |
| exact, of {puzzles} test puzzles | {exact:.1%}; the right answer wins among {votes} shuffled versions: {voted:.1%} |
| parameters | {parameters:,} |
| trained on | {device}, {precision}, torch {torch}, {processes} process of {threads} thread |
"""


def main() -> None:
    """Write `trm/demo` of `outputs`."""
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
    (DEMO / FILE).chmod(0o644)  # safetensors writes for its owner alone
    words = README.format(
        **trained["facts"],
        seed=trained["params"]["train"]["seed"],
        key=trained["key"],
        evaluation_key=evaluated["key"],
        torch=trained["versions"]["torch"],
        exact=metrics["exact_accuracy"],
        voted=metrics["pass@1"],
        votes=metrics["votes"],
        puzzles=metrics["puzzles"],
    )
    (DEMO / "README.md").write_text(words, encoding="utf-8")


if __name__ == "__main__":
    main()
