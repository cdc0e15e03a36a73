"""Tiny Recursive Models: train and evaluate small networks that solve puzzles by recursing on their own answer.

The names below are the public API; each is imported when it is first used, so that `import trm` stays light.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trm.config import load_params
    from trm.errors import DataError, ParamsError, UserError
    from trm.evaluation.solve import Answer, solve
    from trm.mirror import load_checkpoint
    from trm.model.published import export_published, import_published
    from trm.model.supervision import build_model

_HOMES = {
    "Answer": "trm.evaluation.solve",
    "DataError": "trm.errors",
    "ParamsError": "trm.errors",
    "UserError": "trm.errors",
    "build_model": "trm.model.supervision",
    "export_published": "trm.model.published",
    "import_published": "trm.model.published",
    "load_checkpoint": "trm.mirror",
    "load_params": "trm.config",
    "solve": "trm.evaluation.solve",
}

__all__ = [
    "Answer",
    "DataError",
    "ParamsError",
    "UserError",
    "build_model",
    "export_published",
    "import_published",
    "load_checkpoint",
    "load_params",
    "solve",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'trm' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
