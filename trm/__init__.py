"""Tiny Recursive Models: train and evaluate small networks that solve puzzles by recursing on their own answer.

The names in `__all__` are the public API. Each is imported on first use, so that `import trm` stays fast.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trm.evaluation.arc_tasks import TaskAnswer, solve_arc
    from trm.inference.solve import Answer, solve
    from trm.inference.trace import Frame, trace
    from trm.models.act import build_model
    from trm.models.conversion import export_published, import_published
    from trm.stages.experiment import evaluate, run, train
    from trm.stages.params import load_params, load_recipe
    from trm.training.checkpoint import load_checkpoint
    from trm.utils.errors import DataError, ParamsError, UserError

    __version__: str

_MODULES = {
    "Answer": "trm.inference.solve",
    "DataError": "trm.utils.errors",
    "Frame": "trm.inference.trace",
    "ParamsError": "trm.utils.errors",
    "TaskAnswer": "trm.evaluation.arc_tasks",
    "UserError": "trm.utils.errors",
    "build_model": "trm.models.act",
    "evaluate": "trm.stages.experiment",
    "export_published": "trm.models.conversion",
    "import_published": "trm.models.conversion",
    "load_checkpoint": "trm.training.checkpoint",
    "load_params": "trm.stages.params",
    "load_recipe": "trm.stages.params",
    "run": "trm.stages.experiment",
    "solve": "trm.inference.solve",
    "solve_arc": "trm.evaluation.arc_tasks",
    "trace": "trm.inference.trace",
    "train": "trm.stages.experiment",
}

__all__ = [
    "Answer",
    "DataError",
    "Frame",
    "ParamsError",
    "TaskAnswer",
    "UserError",
    "__version__",
    "build_model",
    "evaluate",
    "export_published",
    "import_published",
    "load_checkpoint",
    "load_params",
    "load_recipe",
    "run",
    "solve",
    "solve_arc",
    "trace",
    "train",
]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("trm")
    if name not in _MODULES:
        raise AttributeError(f"module 'trm' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
