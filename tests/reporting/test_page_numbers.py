"""The numbers of the HTML report against values worked by hand: bins, votes, calibration, curves, scores."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trm.config.dataset_meta import DatasetMeta
from trm.datasets.arc.dataset import VOCABULARY
from trm.datasets.drawings import get_drawing
from trm.datasets.maze.dataset import maze_meta
from trm.datasets.sudoku.dataset import sudoku_meta
from trm.evaluation.evaluate import SCHEMA
from trm.reporting import statistics
from trm.reporting.html import gallery, sections, summary
from trm.reporting.predictions import PredictionTable, read_predictions, rows_at
from trm.storage.artifacts import write_manifest
from trm.utils.errors import DataError

ARC = DatasetMeta(name="arc", height=30, width=30, vocabulary=VOCABULARY, num_identifiers=2)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def write_predictions(file: Path, rows: list[dict[str, Any]], row_group: int = 4) -> Path:
    """Write predictions.parquet; columns that a row lacks are those of a separate puzzle with one vote."""
    default: dict[str, Any] = {"pair": 0, "augmentation": 0, "transform": "", "height": 1, "width": 1, "answer": b"\1"}
    default |= {
        "votes": 1,
        "rank": 1,
        "confidence": 0.5,
        "halt_logit": 0.0,
        "steps": 1,
        "halt_step": 1,
        "cell_accuracy": None,
    }
    default |= {"exact": None, "correct": None, "valid": None, "source": "", "rating": 0}
    complete = [default | {"task": str(number), "puzzle": number} | row for number, row in enumerate(rows)]
    pq.write_table(pa.Table.from_pylist(complete, schema=SCHEMA), file, row_group_size=row_group)
    return file


@pytest.fixture
def voted(tmp_path: Path) -> PredictionTable:
    """Four examples with three augmentations each: the vote corrects one single answer, corrupts one, keeps two."""
    single = [(False, 1), (True, 1), (True, 3), (False, 2)]
    winners = [True, False, True, False]
    rows = []
    for number, ((single_correct, votes), winner) in enumerate(zip(single, winners, strict=True)):
        for augmentation in range(3):
            is_single = augmentation == 0
            same = single_correct == winner and votes > 1
            rank = 1 if not is_single or same else 2
            count = votes if is_single or same else 2
            correct = single_correct if is_single else winner
            if number == 3 and augmentation == 2:
                rank, count, correct = 2, 1, True
            rows.append(
                {
                    "task": f"t{number}",
                    "puzzle": 10 * number,
                    "augmentation": augmentation,
                    "rank": rank,
                    "votes": count,
                    "correct": correct,
                    "exact": correct,
                    "halt_logit": float(number),
                }
            )
    return read_predictions(write_predictions(tmp_path / "p.parquet", rows))


def test_read_predictions(voted: PredictionTable) -> None:
    assert voted.row.tolist() == [0, 3, 6, 9]
    assert voted.num_votes.tolist() == [3, 3, 3, 3]
    assert voted.puzzle.tolist() == [0, 10, 20, 30]
    assert [voted.tasks[task] for task in voted.task] == ["t0", "t1", "t2", "t3"]
    assert voted.correct.tolist() == [False, True, True, False]
    assert voted.vote_correct.tolist() == [True, False, True, False]
    assert voted.top2_correct.tolist() == [True, True, True, True]
    assert voted.votes.tolist() == [2, 2, 3, 2]
    assert voted.known.all()
    assert voted.valid is None


def test_winner_may_have_fewer_votes(tmp_path: Path) -> None:
    """A verified answer ranks first, regardless of its votes."""
    ranks = [(2, 2, False), (1, 1, True), (2, 2, False)]
    rows = [
        {
            "task": "t",
            "puzzle": 0,
            "augmentation": k,
            "rank": rank,
            "votes": votes,
            "correct": correct,
            "exact": correct,
        }
        for k, (rank, votes, correct) in enumerate(ranks)
    ]
    table = read_predictions(write_predictions(tmp_path / "p.parquet", rows))
    assert (table.votes.tolist(), table.vote_correct.tolist()) == ([1], [True])
    corrected = {(True, True): 0, (True, False): 0, (False, True): 1, (False, False): 0}
    assert statistics.votes(table).table == corrected


def test_vote_statistics(voted: PredictionTable) -> None:
    votes = statistics.votes(voted)
    assert not votes.by_fraction
    assert [(each.label, each.n) for each in votes.bins] == [("1", 0), ("2", 3), ("3", 1)]
    assert [each.scores["correct"]["value"] for each in votes.bins] == [None, 1 / 3, 1.0]
    assert votes.table == {(True, True): 1, (True, False): 1, (False, True): 1, (False, False): 1}
    section = sections.vote(voted)
    assert section is not None
    assert (section.corrected, section.corrupted, section.both, section.neither) == (1, 1, 1, 1)
    assert section.num_votes == 3


def test_many_votes_are_binned_by_fraction(tmp_path: Path) -> None:
    """1, 2, 3 and 20 of 20 votes: 5 and 10 % are in the first bin, 15 % in the second, 100 % in the last."""
    rows = [
        {
            "task": str(count),
            "puzzle": count,
            "augmentation": augmentation,
            "rank": 1 if augmentation < count else 2,
            "votes": count if augmentation < count else 1,
            "correct": augmentation < count,
            "exact": augmentation < count,
        }
        for count in (1, 2, 3, 20)
        for augmentation in range(20)
    ]
    votes = statistics.votes(read_predictions(write_predictions(tmp_path / "p.parquet", rows)))
    assert votes.by_fraction
    assert [each.n for each in votes.bins] == [2, 1, 0, 0, 0, 0, 0, 0, 0, 1]


def test_unknown_solutions(tmp_path: Path) -> None:
    rows = [{"exact": None}, {"exact": None}]
    table = read_predictions(write_predictions(tmp_path / "p.parquet", rows))
    assert not table.known.any()
    assert sections.calibration(table) is sections.vote(table) is None
    assert gallery.confident_mistakes(table).tolist() == []
    assert sorted(gallery.choose_examples(table, 5, seed=0)) == [0, 1]


def test_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="p.parquet: not a complete file of predictions .*; run `trm evaluate` again"):
        read_predictions(tmp_path / "p.parquet")
    with pytest.raises(DataError, match="contains no predictions; run `trm evaluate` again"):
        read_predictions(write_predictions(tmp_path / "empty.parquet", []))


def test_rows_at(tmp_path: Path) -> None:
    file = write_predictions(tmp_path / "p.parquet", [{"rating": 7 * number} for number in range(11)], row_group=3)
    assert rows_at(file, [10, 0, 5, 5]).column("rating").to_pylist() == [70, 0, 35, 35]
    assert len(rows_at(file, [])) == 0


def test_calibration() -> None:
    """Two puzzles at 25 %, one of them exact; two at 95 %, both exact; one at 100 %, wrong."""
    logits = np.array([logit(0.25), logit(0.25), logit(0.95), logit(0.95), 60.0])
    found = statistics.calibration(logits, np.array([True, False, True, True, False]))
    assert [(each.label, each.n) for each in found.bins] == [("20\u201330 %", 2), ("90\u2013100 %", 3)]
    assert found.probability == pytest.approx([0.25, 2.9 / 3])
    assert [each.scores["exact"]["value"] for each in found.bins] == pytest.approx([0.5, 2 / 3])
    assert found.error == pytest.approx((2 * 0.25 + 3 * (2.9 / 3 - 2 / 3)) / 5)


def test_perfect_calibration_has_no_error() -> None:
    assert statistics.calibration(np.array([50.0, -50.0]), np.array([True, False])).error == pytest.approx(0, abs=1e-9)


def test_few_values_have_one_bin_each() -> None:
    labels, place = statistics.bin_values(np.array([5, 1, 5, 9]))
    assert labels == ["1", "5", "9"]
    assert place.tolist() == [1, 0, 1, 2]


def test_many_values_share_bins() -> None:
    labels, place = statistics.bin_values(np.arange(100), most=4)
    assert np.bincount(place).tolist() == [25, 25, 25, 25]
    assert labels == ["0\u201324", "25\u201349", "50\u201374", "75\u201399"]


@given(st.lists(st.integers(-5, 400), min_size=1, max_size=300), st.integers(1, 9))
def test_bin_labels_are_the_bounds(values: list[int], most: int) -> None:
    labels, place = statistics.bin_values(np.array(values), most)
    assert len(labels) <= most
    assert sorted(set(place.tolist())) == list(range(len(labels)))  # none is empty
    for value, at in zip(values, place.tolist(), strict=True):
        low, _, high = labels[at].partition("\u2013")
        assert int(low) <= value <= int(high or low)


def test_accuracy_by_difficulty() -> None:
    solved = np.array([True, True, False, False, True])
    bins = statistics.by_difficulty(np.array([1, 1, 1, 2, 2]), {"exact": solved, "vote": ~solved})
    assert [(each.label, each.n, each.scores["exact"]["value"], each.scores["vote"]["value"]) for each in bins] == [
        ("1", 3, 2 / 3, 1 / 3),
        ("2", 2, 1 / 2, 1 / 2),
    ]
    low, high = bins[1].scores["exact"]["low"], bins[1].scores["exact"]["high"]
    assert (low, high) == pytest.approx((0.0945, 0.9055), abs=1e-4)  # Wilson interval of 1 of 2


def test_downsample() -> None:
    columns = {
        "step": np.arange(1.0, 8),
        "loss": np.arange(7.0),
        "exact": np.array([np.nan, 1, np.nan, np.nan, 3, 5, 7]),
    }
    short = sections.downsample(columns, most=4)
    assert short["step"].tolist() == [2, 4, 6, 7]
    assert short["loss"].tolist() == [0.5, 2.5, 4.5, 6]
    assert np.array_equal(short["exact"], [1, np.nan, 4, 7], equal_nan=True)
    assert sections.downsample(columns, most=7)["loss"].tolist() == columns["loss"].tolist()
    assert sections.downsample({}) == {}


def test_examples_are_half_solved_and_half_failed(tmp_path: Path) -> None:
    rows = [{"correct": number >= 3, "exact": number >= 3} for number in range(40)]
    table = read_predictions(write_predictions(tmp_path / "p.parquet", rows))
    four = gallery.choose_examples(table, 4, seed=1)
    assert table.correct[four].tolist() == [True, True, False, False]
    ten = gallery.choose_examples(table, 10, seed=1)
    assert table.correct[ten].tolist() == [True] * 7 + [False] * 3  # three have failed
    assert len(set(ten.tolist())) == 10
    assert np.array_equal(ten, gallery.choose_examples(table, 10, seed=1))
    assert not np.array_equal(ten, gallery.choose_examples(table, 10, seed=2))
    assert gallery.choose_examples(table, 0, seed=1).tolist() == []
    assert len(gallery.choose_examples(table, 99, seed=1)) == 40
    rows = [{"correct": number < 3, "exact": number < 3} for number in range(40)]
    table = read_predictions(write_predictions(tmp_path / "q.parquet", rows))
    assert table.correct[gallery.choose_examples(table, 10, seed=1)].tolist() == [True] * 3 + [False] * 7


def test_confident_mistakes(tmp_path: Path) -> None:
    """Wrong answers with a halt probability of at least 50 %: with a halt logit of at least 0."""
    logits = [float(number) - 15 for number in range(31)]
    rows = [{"correct": n % 2 == 0, "exact": n % 2 == 0, "halt_logit": value} for n, value in enumerate(logits)]
    table = read_predictions(write_predictions(tmp_path / "p.parquet", rows))
    assert gallery.confident_mistakes(table).tolist() == [29, 27, 25, 23, 21, 19, 17, 15]
    many = [{"correct": False, "exact": False, "halt_logit": float(number)} for number in range(12)]
    table = read_predictions(write_predictions(tmp_path / "q.parquet", many))
    assert gallery.confident_mistakes(table).tolist() == [11, 10, 9, 8, 7, 6, 5, 4, 3, 2]


def test_vote_of_a_failed_puzzle(voted: PredictionTable, tmp_path: Path) -> None:
    """The vote corrects the first puzzle and corrupts the second; the others agree with their vote."""
    assert [gallery.vote_note(voted, index) for index in range(4)] == [
        *(", but the vote is right", ", but the vote is wrong", "", ""),
    ]
    single = read_predictions(write_predictions(tmp_path / "q.parquet", [{"correct": False, "exact": False}]))
    assert gallery.vote_note(single, 0) == ""


def test_halting_is_counted_up_to_the_steps_of_training(tmp_path: Path) -> None:
    """Decisions at steps 2, 4 and 16 of an evaluation with 16 steps; 8 in training."""
    rows = [{"halt_step": step} for step in (2, 4, 16)]
    table = read_predictions(write_predictions(tmp_path / "p.parquet", rows))
    assert statistics.halting(table, 8) == {"mean_halt_step": pytest.approx((2 + 4 + 8) / 3)}
    ((name, value, definition),) = summary.counts({"mean_halt_step": 4.75}, 8)
    assert (name, value) == ("mean_halt_step", "4.75")
    assert definition.endswith("at most 8 (halt_max_steps)")


@pytest.mark.parametrize(
    ("steps", "kept"),
    [
        ([], 0),
        ([1], 1),
        ([50, 100, 150], 3),
        ([50, 100, 101], 2),
        ([50, 100, 124], 2),
        ([50, 100, 125], 3),
        ([1, 2], 2),
    ],
)
def test_short_last_window_is_left_out(steps: list[int], kept: int) -> None:
    columns = {"step": np.array(steps, float), "loss": np.arange(len(steps), dtype=float)} if steps else {}
    shown = sections.without_short_window(columns)
    assert len(shown.get("loss", ())) == len(shown.get("step", ())) == kept


def test_plots_fill_rows_of_six_columns() -> None:
    assert [sections.spans(count) for count in range(8)] == [
        *([], [6], [3, 3], [2, 2, 2], [3, 3, 3, 3], [2, 2, 2, 3, 3], [2] * 6, [2, 2, 2, 3, 3, 3, 3]),
    ]


def test_durations_and_hardware(tmp_path: Path) -> None:
    """Times are in a file next to the folder; that of another result is ignored."""
    folders = {name: tmp_path / name for name in ("model", "evaluation", "imported")}
    facts = {
        "model": {"device": "cuda", "processes": 4},
        "evaluation": {"device": "cpu", "processes": 1},
        "imported": {},
    }
    for name, folder in folders.items():
        folder.mkdir()
        write_manifest(folder, {"stage": "train", "key": name, "facts": facts[name]})
    timing = {"key": "model", "seconds": 4000.0, "train_seconds": 3725.0, "machine": "x86_64", "cores": 16}
    (tmp_path / "model.timing.json").write_text(json.dumps(timing))
    (tmp_path / "evaluation.timing.json").write_text(json.dumps({**timing, "key": "another"}))
    assert summary.durations(folders) == [
        ("model", "1 h 2 min on cuda (x86_64, 16 cores) with 4 processes"),
        ("evaluation", "on cpu"),
    ]
    assert [summary.duration(seconds) for seconds in (0.04, 59.94, 60, 125.4, 7261)] == [
        *("0.0 s", "59.9 s", "1 min 0 s", "2 min 5 s", "2 h 1 min"),
    ]


def test_steps_are_packed_as_changes() -> None:
    first = np.zeros((3, 4), np.uint8)
    second = first.copy()
    second[2, 1] = 5
    packed = gallery.pack_steps([first, second, second, second[:2], first[:2] + 1])
    assert packed == [[3, 4, "0" * 12], [[9, 5]], [[]], [2, 4, "0" * 8], [2, 4, "1" * 8]]


def test_script_drawing() -> None:
    drawing = gallery.script_drawing(get_drawing(sudoku_meta(4)))
    assert (drawing["boxes"], drawing["blank"], drawing["colored"]) == ([2, 2], 0, False)
    assert drawing["cells"] == [["var(--cell)", symbol] for symbol in ("", "1", "2", "3", "4")]
    arc = gallery.script_drawing(get_drawing(ARC))
    assert (arc["boxes"], arc["blank"], arc["colored"], len(arc["cells"])) == ([0, 0], -1, True, 10)
    assert arc["cells"][2] == ["#ff4136", ""]
    maze = gallery.script_drawing(get_drawing(maze_meta(4)))
    assert [maze["cells"][0], maze["dots"]] == [["var(--wall)", ""], [4]]


METRICS: dict[str, Any] = {
    "exact_accuracy": 0.5,
    "valid": None,
    "pass@1": 0.75,
    "pass@2": 1.0,
    "mean_steps": 16.0,
    "mean_forward_passes": 640.0,
    "mean_halt_step": 2.25,
    "puzzles": 1200,
    "tasks": 1000,
    "num_votes": 4,
    "interval_95": {"exact_accuracy": [0.4, 0.6], "valid": [None, None], "pass@1": [0.7, 0.8], "pass@2": [0.9, 1.0]},
}


def test_headline() -> None:
    text = summary.headline(sudoku_meta(4), METRICS, {"exact_accuracy": 0.874}).replace("\u00a0", " ")
    assert text == (
        "50.0 % of 1,200 test puzzles solved (95 % interval 40.0 to 60.0); 75.0 % by the vote of 4 augmentations; "
        "published: 87.4 %."
    )
    text = summary.headline(sudoku_meta(4), METRICS, {}, "halt_first")
    assert "75.0\u00a0% by the first sequence to halt of 4 augmentations" in text
    text = summary.headline(ARC, METRICS, {}).replace("\u00a0", " ")
    assert text == "100.0 % of 1,000 tasks solved with two attempts (95 % interval 90.0 to 100.0)."
    unknown = METRICS | {"exact_accuracy": None, "pass@2": None}
    assert summary.headline(ARC, unknown, {}).startswith("1,200 test puzzles were answered.")


def test_published_scores() -> None:
    rows = {row.name: row for row in summary.scores(METRICS, {"exact_accuracy": 0.874, "pass@1000": 0.4})}
    assert list(rows) == ["exact_accuracy", "pass@1", "pass@2", "pass@1000"]  # without rules no `valid`
    assert (rows["exact_accuracy"].n, rows["exact_accuracy"].published) == (1200, 0.874)
    assert (rows["pass@1"].n, rows["pass@1"].low, rows["pass@1"].published) == (1000, 0.7, None)
    assert (rows["pass@1000"].value, rows["pass@1000"].n, rows["pass@1000"].published) == (None, None, 0.4)


def test_leaked_tasks() -> None:
    others = {"tasks": 998, "puzzles": 1198, "exact_accuracy": 0.25, "pass@2": 0.125, "valid": None}
    others["interval_95"] = {"exact_accuracy": [0.2, 0.3], "pass@2": [0.1, 0.2], "valid": [None, None]}
    metrics = METRICS | {"leaked_tasks": 2, "without_leaks": others}
    text = summary.headline(ARC, metrics, {"pass@2": 0.4}).replace("\u00a0", " ")
    assert text.endswith("; 12.5 % without the 2 leaked tasks; published: 40.0 %.")
    assert summary.headline(ARC, METRICS | {"leaked_tasks": 0}, {}) == summary.headline(ARC, METRICS, {})
    rows = {row.name: row for row in summary.scores(metrics, {}) if "leaks" in row.name}
    assert list(rows) == ["exact_accuracy without leaks", "pass@2 without leaks"]
    assert (rows["exact_accuracy without leaks"].value, rows["exact_accuracy without leaks"].n) == (0.25, 1198)
    assert (rows["pass@2 without leaks"].low, rows["pass@2 without leaks"].n) == (0.1, 998)
    assert "2 tasks that are trained on under another name" in rows["pass@2 without leaks"].definition
