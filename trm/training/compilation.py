"""torch.compile: the choice for a training run, and the compilation."""

import torch

from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.config.training import TrainParams
from trm.models.act import TRM
from trm.training.cost import training_operations
from trm.utils.device import has_compiler, require_compiler
from trm.utils.errors import UserError

WORTHWHILE = {"cpu": 6e13, "cuda": 3e16}
"""Device -> floating-point operations of a run that repays compilation: ten minutes at the 100 GFLOP/s measured on one
core of a CPU, five minutes at an assumed 100 TFLOP/s of a GPU."""


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


def compile_passes(model: TRM, sequences: int) -> None:
    """Compile the passes of `model` in place, for batches of `sequences`.

    A pass is compiled in a fraction of the time of a whole supervision step, and is the same in each round. Raises
    `UserError` if this machine has no C++ compiler or the compilation fails; then the model is as before.
    """
    require_compiler()
    vars(model)["net"] = torch.compile(model.net)  # as an attribute: parameter names stay the same
    try:
        # torch compiles at the first call: here, where an error leaves nothing half done.
        for name in model.networks:
            shape = (sequences, model.positions, model.config.block_width)
            x = torch.zeros(shape, dtype=model.compute_dtype, device=model.device, requires_grad=True)
            with torch.no_grad():
                model.net(name, x)
            model.net(name, x).float().sum().backward()
    except Exception as error:  # of many types, which are not public
        del vars(model)["net"]
        raise UserError(f"torch.compile failed ({type(error).__name__}); set train.compile to false") from None
    finally:
        model.zero_grad()
