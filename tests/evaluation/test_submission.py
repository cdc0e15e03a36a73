import numpy as np
import pyarrow as pa

from trm.evaluation.submission import submission


def table(*lines: tuple[str, int, int, list[list[int]]]) -> pa.Table:
    """(task, pair, rank, grid)"""
    grids = [
        np.array(grid, np.uint8).reshape(len(grid), -1) if grid else np.zeros((0, 0), np.uint8) for *_, grid in lines
    ]
    columns = {name: [line[index] for line in lines] for index, name in enumerate(("task", "pair", "rank"))}
    shapes = {"height": [grid.shape[0] for grid in grids], "width": [grid.shape[1] for grid in grids]}
    return pa.table({**columns, **shapes, "answer": [grid.tobytes() for grid in grids]})


def test_by_hand() -> None:
    predictions = table(
        ("two", 1, 2, [[5]]),  # the order of the lines is not that of the ranks
        ("two", 1, 1, [[1, 2], [3, 4], [5, 6]]),
        ("two", 1, 1, [[1, 2], [3, 4], [5, 6]]),
        ("two", 1, 3, [[9]]),
        ("two", 0, 1, [[7, 7]]),
        ("empty", 0, 1, []),
        ("empty", 0, 2, [[8]]),
    )
    assert submission(predictions, {"two": 2, "gap": 1, "empty": 2}) == {
        "two": [
            {"attempt_1": [[7, 7]], "attempt_2": [[7, 7]]},  # one candidate: it repeats
            {"attempt_1": [[1, 2], [3, 4], [5, 6]], "attempt_2": [[5]]},
        ],
        "gap": [{"attempt_1": [[0]], "attempt_2": [[0]]}],  # no predictions at all
        "empty": [
            {"attempt_1": [], "attempt_2": [[8]]},
            {"attempt_1": [[0]], "attempt_2": [[0]]},  # a missing pair does not shift the others
        ],
    }
