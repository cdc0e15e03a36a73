"""The choice of torch.compile for a training run, and where compiled code is kept."""

import os

import torch

from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.config.training import TrainParams
from trm.models.act import TRM
from trm.training.cost import training_operations
from trm.utils.device import has_compiler, require_compiler
from trm.utils.paths import cache_folder

WORTHWHILE = {"cpu": 6e13, "cuda": 3e16}
"""Device -> floating-point operations of a run that repays compilation: about ten minutes of training on one core of a
CPU, five on a GPU. Compilation takes up to a minute."""


def should_compile(settings: TrainParams, config: ModelParams, meta: DatasetMeta, steps: int, device: str) -> bool:
    """The value of `train.compile` for a run of `steps` steps on a device of this type.

    `auto` follows from params, device and whether there is a C++ compiler. Raises `UserError` for `true` without one.
    """
    if settings.compile != "auto":
        if settings.compile:
            require_compiler()
        return settings.compile
    if device not in WORTHWHILE or not has_compiler():
        return False
    return training_operations(config, settings, meta, steps) >= WORTHWHILE[device]


def compile_passes(model: TRM) -> None:
    """Compile the passes of `model` in place. Raises `UserError` if this machine has no C++ compiler.

    A pass is compiled in a fraction of the time of a whole supervision step, and is the same in each round.
    """
    require_compiler()
    # The default folder is in /tmp: lost when the machine restarts, and at a name that others can guess.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
    vars(model)["net"] = torch.compile(model.net)  # as an attribute: parameter names stay the same
