"""Test tasks that are trained on under another name: found by content, not by name.

For example, task 070dd51e of the ARC-AGI-1 evaluation set is task 40853293 of its training set.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from trm.data.protocol import Grid
from trm.data.symmetries import apply_symmetry
from trm.datasets.arc.tasks import Task

Leaks = dict[str, list[str]]
"""Name of a test task -> names of the other tasks with an equal pair that is trained on, sorted."""


def canonical_form(pair: tuple[Grid, Grid]) -> bytes:
    """A form of a pair of grids (uint8 [h, w]), equal for two pairs if and only if one of the eight symmetries and a
    permutation of the ten colors, the same for input and output, map one to the other.

    It is the smallest of the transformed pairs, with colors renamed by first appearance.
    """
    return min(_renamed(pair, symmetry) for symmetry in range(8))


def _renamed(pair: tuple[Grid, Grid], symmetry: int) -> bytes:
    grids = [apply_symmetry(grid, symmetry) for grid in pair]
    cells = np.concatenate([grid.ravel() for grid in grids])
    _, first, colors = np.unique(cells, return_index=True, return_inverse=True)
    names = np.empty(len(first), np.uint8)
    names[np.argsort(first)] = np.arange(len(first))
    return bytes([*grids[0].shape, *grids[1].shape]) + names[colors].tobytes()


def find_leaks(tasks: Sequence[Task], test_subset: str) -> Leaks:
    """The tasks of `test_subset` with a pair, demonstration or test, that is trained on as a pair of another task.

    All pairs of the other subsets and all demonstrations of `test_subset` are trained on. Test pairs that equal a
    demonstration of their own task are part of the puzzle and not counted; pairs without known output are skipped.
    """
    trained: dict[bytes, set[str]] = {}
    tests: dict[str, list[bytes]] = {}
    for task in tasks:
        forms = [canonical_form(pair) for pair in _known_pairs(task)]
        is_test = task.subset == test_subset
        if is_test:
            tests[task.name] = forms
        for form in forms[: len(task.pairs)] if is_test else forms:
            trained.setdefault(form, set()).add(task.name)
    leaks = {name: set[str]().union(*(trained.get(form, ()) for form in forms)) for name, forms in tests.items()}
    return {name: sorted(others - {name}) for name, others in sorted(leaks.items()) if others - {name}}


def _known_pairs(task: Task) -> Iterator[tuple[Grid, Grid]]:
    """Demonstrations, then test pairs."""
    yield from task.pairs
    for given, output in task.tests:
        if output is not None:
            yield given, output
