"""What the page counts: bins, votes, calibration, curves, more thinking; by hand."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trm.datasets.arc.dataset import VOCABULARY
from trm.datasets.sudoku.dataset import sudoku_meta
from trm.utils.errors import DataError
from trm.evaluation.sweep import Curve, Knobs, Row
from trm.evaluation.evaluate import SCHEMA
from trm.config.dataset_meta import DatasetMeta
from trm.reporting.html import gallery, sections, summary
from trm.reporting import statistics as tallies
from trm.reporting.predictions import Answered, lines_at, read_answered
from trm.reporting.html.test_time_compute import thinking_section


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def predictions(file: Path, lines: list[dict[str, Any]], row_group: int = 4) -> Path:
    """A predictions.parquet of these lines; what they do not say is as in a puzzle of its own, asked once."""
    usual: dict[str, Any] = {"pair": 0, "version": 0, "draw": "", "height": 1, "width": 1, "answer": b"\1", "votes": 1}
    usual |= {"rank": 1, "halt_logit": 0.0, "steps": 1, "first_halt": 1, "cell_accuracy": None, "exact": None}
    usual |= {"right": None, "valid": None, "source": "", "rating": 0}
    rows = [usual | {"task": str(number), "puzzle": number} | line for number, line in enumerate(lines)]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), file, row_group_size=row_group)
    return file


@pytest.fixture
def voted(tmp_path: Path) -> Answered:
    """Four examples of three versions: the vote mends one, spoils one, and agrees with two single answers."""
    single = [(False, 1), (True, 1), (True, 3), (False, 2)]
    winners = [True, False, True, False]
    lines = []
    for number, ((right, votes), winner) in enumerate(zip(single, winners, strict=True)):
        for version in range(3):
            is_single = version == 0
            same = right == winner and votes > 1
            rank = 1 if not is_single or same else 2
            count = votes if is_single or same else 2
            holds = right if is_single else winner
            if number == 3 and version == 2:
                rank, count, holds = 2, 1, True
            lines.append(
                {
                    "task": f"t{number}",
                    "puzzle": 10 * number,
                    "version": version,
                    "rank": rank,
                    "votes": count,
                    "right": holds,
                    "exact": holds,
                    "halt_logit": float(number),
                }
            )
    return read_answered(predictions(tmp_path / "p.parquet", lines))


def test_an_example_is_read_with_its_vote(voted: Answered) -> None:
    assert voted.line.tolist() == [0, 3, 6, 9]
    assert voted.versions.tolist() == [3, 3, 3, 3]
    assert voted.puzzle.tolist() == [0, 10, 20, 30]
    assert [voted.tasks[task] for task in voted.task] == ["t0", "t1", "t2", "t3"]
    assert voted.right.tolist() == [False, True, True, False]
    assert voted.voted_right.tolist() == [True, False, True, False]
    assert voted.second_right.tolist() == [True, True, True, True]
    assert voted.votes.tolist() == [2, 2, 3, 2]
    assert voted.known.all()
    assert voted.valid is None


def test_the_winner_may_have_fewer_votes(tmp_path: Path) -> None:
    """An answer that was seen to obey the rules comes first, whatever its votes."""
    ranks = [(2, 2, False), (1, 1, True), (2, 2, False)]
    lines = [
        {"task": "t", "puzzle": 0, "version": version, "rank": rank, "votes": votes, "right": right, "exact": right}
        for version, (rank, votes, right) in enumerate(ranks)
    ]
    answered = read_answered(predictions(tmp_path / "p.parquet", lines))
    assert (answered.votes.tolist(), answered.voted_right.tolist()) == ([1], [True])


def test_how_the_votes_fell(voted: Answered) -> None:
    fell = tallies.votes(voted)
    assert not fell.by_share
    assert [(each.label, each.n) for each in fell.bins] == [("1", 0), ("2", 3), ("3", 1)]
    assert [each.scores["right"]["value"] for each in fell.bins] == [None, 1 / 3, 1.0]
    assert fell.table == {(True, True): 1, (True, False): 1, (False, True): 1, (False, False): 1}
    section = sections.vote(voted)
    assert section is not None
    assert (section.mended, section.spoilt, section.both, section.neither, section.most) == (1, 1, 1, 1, 3)


def test_many_votes_are_shares(tmp_path: Path) -> None:
    """Of 20 versions 1, 2, 3 and 20 votes: 5 and 10 % are in the first bin, 15 % in the second, all in the last."""
    lines = [
        {
            "task": str(votes),
            "puzzle": votes,
            "version": version,
            "rank": 1 if version < votes else 2,
            "votes": votes if version < votes else 1,
            "right": version < votes,
            "exact": version < votes,
        }
        for votes in (1, 2, 3, 20)
        for version in range(20)
    ]
    fell = tallies.votes(read_answered(predictions(tmp_path / "p.parquet", lines)))
    assert fell.by_share
    assert [each.n for each in fell.bins] == [2, 1, 0, 0, 0, 0, 0, 0, 0, 1]


def test_what_nobody_knows_is_no_mistake(tmp_path: Path) -> None:
    lines = [{"exact": None}, {"exact": None}]
    answered = read_answered(predictions(tmp_path / "p.parquet", lines))
    assert not answered.known.any()
    assert sections.calibration(answered) is sections.vote(answered) is None
    assert gallery.confident_mistakes(answered).tolist() == []
    assert sorted(gallery.choose(answered, 5, seed=0)) == [0, 1]


def test_a_broken_file_of_predictions(tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="p.parquet: not a whole file of predictions"):
        read_answered(tmp_path / "p.parquet")
    with pytest.raises(DataError, match="holds no predictions; run `trm evaluate` again"):
        read_answered(predictions(tmp_path / "empty.parquet", []))


def test_whole_lines_of_any_row_group_in_any_order(tmp_path: Path) -> None:
    file = predictions(tmp_path / "p.parquet", [{"rating": 7 * number} for number in range(11)], row_group=3)
    assert lines_at(file, [10, 0, 5, 5]).column("rating").to_pylist() == [70, 0, 35, 35]
    assert len(lines_at(file, [])) == 0


def test_calibration_by_hand() -> None:
    """Two puzzles at 25 %, one of them right; two at 95 %, both right; one at 100 %, wrong."""
    logits = np.array([logit(0.25), logit(0.25), logit(0.95), logit(0.95), 60.0])
    found = tallies.calibration(logits, np.array([True, False, True, True, False]))
    assert [(each.label, each.n) for each in found.bins] == [("20\u201330 %", 2), ("90\u2013100 %", 3)]
    assert found.sure == pytest.approx([0.25, 2.9 / 3])
    assert [each.scores["exact"]["value"] for each in found.bins] == pytest.approx([0.5, 2 / 3])
    assert found.error == pytest.approx((2 * 0.25 + 3 * (2.9 / 3 - 2 / 3)) / 5)


def test_a_perfect_promise_has_no_error() -> None:
    assert tallies.calibration(np.array([50.0, -50.0]), np.array([True, False])).error == pytest.approx(0, abs=1e-9)


def test_few_values_have_a_bin_each() -> None:
    labels, place = tallies.binned(np.array([5, 1, 5, 9]))
    assert labels == ["1", "5", "9"]
    assert place.tolist() == [1, 0, 1, 2]


def test_many_values_share_bins() -> None:
    labels, place = tallies.binned(np.arange(100), most=4)
    assert np.bincount(place).tolist() == [25, 25, 25, 25]
    assert labels == ["0\u201324", "25\u201349", "50\u201374", "75\u201399"]


@given(st.lists(st.integers(-5, 400), min_size=1, max_size=300), st.integers(1, 9))
def test_bins_hold_what_their_labels_say(values: list[int], most: int) -> None:
    labels, place = tallies.binned(np.array(values), most)
    assert len(labels) <= most
    assert sorted(set(place.tolist())) == list(range(len(labels)))  # none is empty
    for value, at in zip(values, place.tolist(), strict=True):
        low, _, high = labels[at].partition("\u2013")
        assert int(low) <= value <= int(high or low)


def test_difficulty_counts_what_is_solved() -> None:
    solved = np.array([True, True, False, False, True])
    bins = tallies.by_difficulty(np.array([1, 1, 1, 2, 2]), {"exact": solved, "vote": ~solved})
    assert [(each.label, each.n, each.scores["exact"]["value"], each.scores["vote"]["value"]) for each in bins] == [
        ("1", 3, 2 / 3, 1 / 3),
        ("2", 2, 1 / 2, 1 / 2),
    ]
    low, high = bins[1].scores["exact"]["low"], bins[1].scores["exact"]["high"]
    assert (low, high) == pytest.approx((0.0945, 0.9055), abs=1e-4)  # Wilson's for 1 of 2


def test_a_long_log_is_averaged_in_pieces() -> None:
    columns = {
        "step": np.arange(1.0, 8),
        "loss": np.arange(7.0),
        "exact": np.array([np.nan, 1, np.nan, np.nan, 3, 5, 7]),
    }
    thin = sections.thinned(columns, most=4)
    assert thin["step"].tolist() == [2, 4, 6, 7]
    assert thin["loss"].tolist() == [0.5, 2.5, 4.5, 6]
    assert np.array_equal(thin["exact"], [1, np.nan, 4, 7], equal_nan=True)
    assert sections.thinned(columns, most=7)["loss"].tolist() == columns["loss"].tolist()
    assert sections.thinned({}) == {}


def test_the_gallery_is_half_solved_and_half_failed(tmp_path: Path) -> None:
    lines = [{"right": number >= 3, "exact": number >= 3} for number in range(40)]
    answered = read_answered(predictions(tmp_path / "p.parquet", lines))
    four = gallery.choose(answered, 4, seed=1)
    assert answered.right[four].tolist() == [True, True, False, False]
    ten = gallery.choose(answered, 10, seed=1)
    assert answered.right[ten].tolist() == [True] * 7 + [False] * 3  # there are three
    assert len(set(ten.tolist())) == 10
    assert np.array_equal(ten, gallery.choose(answered, 10, seed=1))
    assert not np.array_equal(ten, gallery.choose(answered, 10, seed=2))
    assert gallery.choose(answered, 0, seed=1).tolist() == []
    assert len(gallery.choose(answered, 99, seed=1)) == 40
    lines = [{"right": number < 3, "exact": number < 3} for number in range(40)]
    answered = read_answered(predictions(tmp_path / "q.parquet", lines))
    assert answered.right[gallery.choose(answered, 10, seed=1)].tolist() == [True] * 3 + [False] * 7


def test_the_most_confident_mistakes_come_first(tmp_path: Path) -> None:
    lines = [{"right": number % 2 == 0, "exact": number % 2 == 0, "halt_logit": float(number)} for number in range(31)]
    answered = read_answered(predictions(tmp_path / "p.parquet", lines))
    assert gallery.confident_mistakes(answered).tolist() == [29, 27, 25, 23, 21, 19, 17, 15, 13, 11]


def test_steps_are_packed_as_changes() -> None:
    first = np.zeros((3, 4), np.uint8)
    second = first.copy()
    second[2, 1] = 5
    packed = gallery._steps([first, second, second, second[:2], first[:2] + 1])
    assert packed == [[3, 4, "0" * 12], [[9, 5]], [[]], [2, 4, "0" * 8], [2, 4, "1" * 8]]


def test_how_cells_look() -> None:
    looks = gallery.looks(sudoku_meta(4))
    assert looks["boxes"] == (2, 2)
    assert [symbol for _, symbol in looks["cells"]] == ["", "1", "2", "3", "4"]
    arc = DatasetMeta(name="arc", height=30, width=30, vocabulary=VOCABULARY, num_identifiers=2)
    assert len(gallery.looks(arc)["cells"]) == 11
    assert gallery.looks(arc)["cells"][2] == ["#ff4136", ""]


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
    "votes": 4,
    "interval_95": {"exact_accuracy": [0.4, 0.6], "valid": [None, None], "pass@1": [0.7, 0.8], "pass@2": [0.9, 1.0]},
}


def test_the_result_in_a_sentence() -> None:
    said = summary.headline(sudoku_meta(4), METRICS, {"exact_accuracy": 0.874}).replace("\u00a0", " ")
    assert said == (
        "50.0 % of 1,200 test puzzles solved (95 % interval 40.0 to 60.0); 75.0 % by the vote of 4 versions; "
        "published: 87.4 %."
    )
    arc = DatasetMeta(name="arc", height=30, width=30, vocabulary=VOCABULARY, num_identifiers=2)
    said = summary.headline(arc, METRICS, {}).replace("\u00a0", " ")
    assert said == "100.0 % of 1,000 tasks solved with two attempts (95 % interval 90.0 to 100.0)."
    unknown = METRICS | {"exact_accuracy": None, "pass@2": None}
    assert summary.headline(arc, unknown, {}).startswith("1,200 test puzzles were answered.")


def test_scores_stand_beside_the_published_ones() -> None:
    rows = {row.name: row for row in summary.scores(METRICS, {"exact_accuracy": 0.874, "pass@1000": 0.4})}
    assert list(rows) == ["exact_accuracy", "pass@1", "pass@2", "pass@1000"]  # no rules, so no score of them
    assert (rows["exact_accuracy"].n, rows["exact_accuracy"].published) == (1200, 0.874)
    assert (rows["pass@1"].n, rows["pass@1"].low, rows["pass@1"].published) == (1000, 0.7, None)
    assert (rows["pass@1000"].value, rows["pass@1000"].n, rows["pass@1000"].published) == (None, None, 0.4)


PLAIN = Knobs(steps=16, early_halting=False, verify=False, votes=1, rollouts=1, noise=0.0)


def row(passes: float, exact: float, **dials: object) -> Row:
    figures = {"passes": passes, "exact": exact, "low": exact - 0.05, "high": exact + 0.05, "valid": None}
    figures |= {"difference": exact - 0.9, "difference_low": exact - 0.92, "difference_high": exact - 0.88}
    return Row(**(PLAIN | figures | dials))  # pyright: ignore[reportArgumentType, reportCallIssue]


ROWS = [
    row(160, 0.9),
    row(40, 0.8, steps=4),
    row(35, 0.9, early_halting=True),
    row(640, 0.95, votes=4),
    row(600, 0.94, rollouts=4, noise=0.3),
    row(700, 0.95, votes=4, early_halting=True),
]


def test_more_thinking_names_the_chosen_setting() -> None:
    curve = Curve(
        passes_per_step=10,
        plain=PLAIN,
        chosen=Knobs(**{**PLAIN, "early_halting": True}),
        splits={"validation": {"puzzles": 5, "settings": ROWS}, "test": {"puzzles": 6, "settings": ROWS}},
    )
    section = thinking_section(curve)
    assert section is not None
    chosen = section.sentences[1].replace("\u00a0", " ").replace("\u202f", " ")
    assert "16 steps, early halting. On the test puzzles 90.0 % [85.0, 95.0] with 35.0 passes, 22 % of plain." in chosen
    votes = next(line for line in section.effects.rows if line[0] == "16 steps, 4 votes")
    assert votes[-2:] == ["+5.0 [+3.0, +7.0]", "helps"]
    assert [line[3] for line in section.effects.rows].count("plain") == 1
    assert 'role="img"' in section.plot.svg
    assert thinking_section(None) is None
