"""The results of the test-time-compute sweep as sentences, tables, figure, section of the report and folder."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from trm.config.evaluation import ReportParams, SweepParams
from trm.config.inference import DEFAULT_INFERENCE
from trm.config.model import ModelParams
from trm.data.parquet import read_meta
from trm.evaluation.sweep import Row, SweepResults
from trm.models.act import build_model
from trm.reporting.html.test_time_compute import sweep_section
from trm.reporting.pareto import describe, figure, sentences, terminal_tables, verdict, write_sweep
from trm.training.checkpoint import FILE, save_checkpoint
from trm.training.ema import ema_copy
from trm.utils.errors import UserError

PUBLISHED = DEFAULT_INFERENCE.model_dump()


def row(
    passes: float, exact: float, difference: tuple[float, float, float] = (0.0, -0.01, 0.01), **settings: object
) -> Row:
    value, low, high = difference
    return Row(
        settings=PUBLISHED | settings,
        forward_passes=passes,
        exact=exact,
        low=exact - 0.05,
        high=min(exact + 0.05, 1.0),
        valid=None,
        difference=value,
        difference_low=low,
        difference_high=high,
    )


ROWS = [
    row(40, 0.6, (-0.1, -0.2, -0.05), max_steps=4),
    row(48, 0.7, early_halting=True),
    row(160, 0.7),
    row(640, 0.9, (0.2, 0.1, 0.3), num_votes=4),
    row(640, 0.8, (0.1, 0.02, 0.2), num_samples=4, latent_noise_std=0.3),
]
SELECTED = PUBLISHED | {"num_votes": 4}


def results(selected: dict[str, Any] | None) -> SweepResults:
    return {
        "passes_per_step": 10,
        "published": PUBLISHED,
        "selected": selected,
        "splits": {"test": {"puzzles": 50, "rows": ROWS}},
    }


def test_describe() -> None:
    assert describe(PUBLISHED | {"max_steps": 1}, PUBLISHED) == "1 step"
    assert describe(PUBLISHED, PUBLISHED) == "16 steps"
    assert describe(ROWS[4]["settings"], PUBLISHED) == "16 steps, 4 samples, noise 0.3"
    assert describe(ROWS[1]["settings"], PUBLISHED) == "16 steps, early halting"
    assert describe(PUBLISHED | {"verify": True, "num_votes": 2}, PUBLISHED) == "16 steps, verification, 2 votes"
    changed = PUBLISHED | {"num_votes": 2, "selection": "halt_first", "min_confidence": 0.5}
    assert describe(changed, PUBLISHED) == "16 steps, 2 votes, selection halt_first, confidence from 0.5"


def test_verdict() -> None:
    assert [verdict(each) for each in ROWS] == ["worse", *["not significant"] * 2, "better", "better"]


def test_sentences() -> None:
    halting, selected = sentences(results(SELECTED))
    assert halting == (
        "Early halting saves 70 % of the forward passes of the published setting, at +0.0 [\u22121.0, +1.0] points."
    )
    assert selected.replace("\u00a0", " ") == (
        "Cheapest within 1 point of the best on the validation puzzles: 16 steps, 4 votes. On the test puzzles "
        "90.0 % [85.0, 95.0] with 640.0 forward passes, 400 % of the published setting."
    )
    assert list(sentences(results(None)))[1].startswith("No setting is selected: there are no validation puzzles")


def test_terminal_tables() -> None:
    """The Pareto front, and the effect of each setting."""
    out = io.StringIO()
    Console(file=out, width=100).print(terminal_tables(results(SELECTED)))
    first, second = out.getvalue().split("Each setting alone")
    assert [line.split("  ")[0] for line in first.splitlines()[3:] if line.strip()] == [
        *("4 steps", "16 steps, early halting", "16 steps, 4 votes")
    ]
    assert second.count("better") == 2
    assert second.count("n.s.") == 1 + 1  # and its meaning
    assert max(map(len, out.getvalue().splitlines())) <= 100


def test_figure_contains_every_setting() -> None:
    (axes,) = figure(results(SELECTED)).axes
    names = axes.get_legend_handles_labels()[1]
    assert {"single answer", "votes", "samples", "published setting", "cheapest within a point"} < set(names)
    points = [line for line in axes.lines if line.get_label() in ("single answer", "votes", "samples")]
    assert sum(len(line.get_xdata()) for line in points) == len(ROWS)  # pyright: ignore[reportArgumentType]
    assert "cheapest within a point" not in figure(results(None)).axes[0].get_legend_handles_labels()[1]


def test_section_of_the_report() -> None:
    section = sweep_section(results(SELECTED))
    assert section is not None
    assert section.sentences == list(sentences(results(SELECTED)))
    assert [line[0] for line in section.plot.table.rows] == ["4 steps", "16 steps, early halting", "16 steps, 4 votes"]
    votes = next(line for line in section.effects.rows if line[0] == "16 steps, 4 votes")
    assert votes[1:] == ["640.0", "90.0\u00a0% [85.0, 95.0]", "+20.0 [+10.0, +30.0]", "better"]
    assert [line[3] for line in section.effects.rows].count("published") == 1
    assert len(section.effects.rows) == len(ROWS)
    assert 'role="img"' in section.plot.svg
    assert sweep_section(None) is None


SETTINGS = ReportParams(
    published={},
    num_examples=0,
    test_time_compute=SweepParams(
        max_steps=(1, 2), num_votes=(1, 2), selection=("votes",), num_samples=(1,), latent_noise_std=(), max_puzzles=3
    ),
    batch_size=16,
    precision="float32",
    device="cpu",
    seed=0,
)


def test_write_sweep_is_reproducible(dataset: Path, model_params: ModelParams, tmp_path: Path) -> None:
    meta, model = read_meta(dataset), tmp_path / "model"
    model.mkdir()
    net = build_model(model_params, meta)
    save_checkpoint(model / FILE, net, ema_copy(net), {"step": 0})
    write_sweep(model, dataset, SETTINGS, tmp_path / "sweep")
    files = {path.name: path.read_bytes() for path in (tmp_path / "sweep").iterdir()}
    assert set(files) == {"sweep.json", "sweep.png", "sweep.svg", "manifest.json"}
    write_sweep(model, dataset, SETTINGS, tmp_path / "sweep")
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "sweep").iterdir()}

    other = build_model(model_params, meta.model_copy(update={"name": "custom"}))
    save_checkpoint(model / FILE, other, ema_copy(other), {"step": 0})
    with pytest.raises(UserError, match="give the dataset that the model was trained on"):
        write_sweep(model, dataset, SETTINGS, tmp_path / "other")
    assert not (tmp_path / "other").exists()
