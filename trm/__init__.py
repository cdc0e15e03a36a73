"""Tiny Recursive Models: train and evaluate small networks that solve puzzles by recursing on their own answer.

The names below are the public API; each is imported when it is first used, so that `import trm` stays light.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trm.stages.params import load_params
    from trm.utils.errors import DataError, ParamsError, UserError
    from trm.inference.solve import Answer, solve
    from trm.training.checkpoint import load_checkpoint
    from trm.models.conversion import export_published, import_published
    from trm.models.act import build_model

_HOMES = {
    "Answer": "trm.inference.solve",
    "DataError": "trm.errors",
    "ParamsError": "trm.errors",
    "UserError": "trm.errors",
    "build_model": "trm.models.act",
    "export_published": "trm.models.conversion",
    "import_published": "trm.models.conversion",
    "load_checkpoint": "trm.storage.artifact_cache",
    "load_params": "trm.config",
    "solve": "trm.inference.solve",
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
