"""The curve of more thinking for people: words, a figure, a folder."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from trm.config.evaluation import ReportParams, SweepParams
from trm.config.model import ModelParams
from trm.data.parquet import read_meta
from trm.evaluation.sweep import Curve, Knobs, Row
from trm.models.act import build_model
from trm.reporting.pareto import described, figure, judged, run_curve, sentences, told
from trm.training.checkpoint import FILE, save_checkpoint
from trm.training.ema import averaged_copy
from trm.utils.errors import UserError

PLAIN = Knobs(steps=16, early_halting=False, verify=False, votes=1, rollouts=1, noise=0.0)


def row(
    passes: float, exact: float, difference: tuple[float, float, float] = (0.0, -0.01, 0.01), **dials: object
) -> Row:
    middle, low, high = difference
    scores = {"passes": passes, "exact": exact, "low": exact - 0.05, "high": min(exact + 0.05, 1.0), "valid": None}
    scores |= {"difference": middle, "difference_low": low, "difference_high": high}
    return Row(**(PLAIN | dials | scores))  # pyright: ignore[reportArgumentType, reportCallIssue]


ROWS = [
    row(40, 0.6, (-0.1, -0.2, -0.05), steps=4),
    row(48, 0.7, early_halting=True),
    row(160, 0.7),
    row(640, 0.9, (0.2, 0.1, 0.3), votes=4),
    row(640, 0.8, (0.1, 0.02, 0.2), rollouts=4, noise=0.3),
]
CHOSEN = Knobs(**(PLAIN | {"votes": 4}))  # pyright: ignore[reportArgumentType]


def curve(chosen: Knobs | None) -> Curve:
    return {
        "passes_per_step": 10,
        "plain": PLAIN,
        "chosen": chosen,
        "splits": {"test": {"puzzles": 50, "settings": ROWS}},
    }


def test_words() -> None:
    assert described(row(10, 0.1, steps=1), PLAIN) == "1 step"
    assert described(ROWS[2], PLAIN) == "16 steps"
    assert described(ROWS[4], PLAIN) == "16 steps, 4 rollouts, noise 0.3"
    assert described(ROWS[1], PLAIN) == "16 steps, early halting"
    assert [judged(each) for each in ROWS] == ["harms", *["cannot tell"] * 2, "helps", "helps"]
    saved, chosen = sentences(curve(CHOSEN))
    assert saved == "Early halting saves 70 % of the passes of the plain setting, at +0.0 [\u22121.0, +1.0] points."
    assert (
        "16 steps, 4 votes. On the test puzzles 90.0 % [85.0, 95.0] with 640.0 passes, 400 % of plain."
        in chosen.replace("\u00a0", " ")
    )
    assert "No setting is chosen" in list(sentences(curve(None)))[1]


def test_the_tables_hold_the_frontier_and_each_dial() -> None:
    out = io.StringIO()
    Console(file=out, width=100).print(told(curve(CHOSEN)))
    first, second = out.getvalue().split("Each dial by itself")
    assert [line.split("  ")[0] for line in first.splitlines()[2:] if line.strip()] == [
        *("4 steps", "16 steps, early halting", "16 steps, 4 votes")
    ]
    assert second.count("helps") == 2
    assert max(map(len, out.getvalue().splitlines())) <= 100


def test_the_figure_holds_every_setting() -> None:
    (axes,) = figure(curve(CHOSEN)).axes
    names = axes.get_legend_handles_labels()[1]
    assert {"one try", "votes", "rollouts", "plain", "cheapest within a point"} < set(names)
    points = [line for line in axes.lines if line.get_label() in ("one try", "votes", "rollouts")]
    assert sum(len(line.get_xdata()) for line in points) == len(ROWS)  # pyright: ignore[reportArgumentType]
    assert "cheapest within a point" not in figure(curve(None)).axes[0].get_legend_handles_labels()[1]


SETTINGS = ReportParams(
    published={},
    gallery=0,
    curve=SweepParams(steps=(1, 2), votes=(1, 2), rollouts=(1,), noise=(), max_puzzles=3),
    batch_size=16,
    precision="float32",
    device="cpu",
    seed=0,
)


def test_a_folder_is_written_whole_and_alike(dataset: Path, model_params: ModelParams, tmp_path: Path) -> None:
    meta, model = read_meta(dataset), tmp_path / "model"
    model.mkdir()
    net = build_model(model_params, meta)
    save_checkpoint(model / FILE, net, averaged_copy(net), {"step": 0})
    run_curve(model, dataset, SETTINGS, tmp_path / "curve")
    files = {path.name: path.read_bytes() for path in (tmp_path / "curve").iterdir()}
    assert set(files) == {"curve.json", "curve.png", "curve.svg", "manifest.json"}
    run_curve(model, dataset, SETTINGS, tmp_path / "curve")
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "curve").iterdir()}

    other = build_model(model_params, meta.model_copy(update={"name": "custom"}))
    save_checkpoint(model / FILE, other, averaged_copy(other), {"step": 0})
    with pytest.raises(UserError, match="name the data set that the model was trained on"):
        run_curve(model, dataset, SETTINGS, tmp_path / "other")
    assert not (tmp_path / "other").exists()
