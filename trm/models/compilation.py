"""torch.compile: when it repays its time, and the compilation of the passes of a model."""

from typing import Literal

import torch

from trm.models.act import TRM
from trm.utils.device import has_compiler, require_compiler
from trm.utils.errors import UserError

WORTHWHILE = {"cpu": 6e13, "cuda": 3e16}
"""Device -> floating-point operations of a run that repays compilation: ten minutes at the 100 GFLOP/s measured on one
core of a CPU, five minutes at an assumed 100 TFLOP/s of a GPU."""


def should_compile(setting: Literal["auto"] | bool, name: str, device: str, operations: float) -> bool:
    """The value of the setting `name` for a run on a device of this type.

    `auto` follows from the floating-point `operations` of the run, the device and whether there is a C++ compiler.
    Raises `UserError` for `true` without one.
    """
    if setting != "auto":
        if setting:
            require_compiler(name)
        return setting
    return device in WORTHWHILE and has_compiler() and operations >= WORTHWHILE[device]


def compile_passes(model: TRM, name: str, sequences: int, backward: bool) -> None:
    """Compile the passes of `model` in place for batches of `sequences`, with the backward pass if `backward`.

    Later, the first batch of another size is compiled once more, for all sizes. A pass is compiled in a fraction of the
    time of a whole supervision step, and is the same in each round. Raises `UserError`, which names the setting `name`,
    if this machine has no C++ compiler or the compilation fails; then the model is as before.
    """
    require_compiler(name)
    model.cast_weights()
    vars(model)["net"] = torch.compile(model.net)  # as an attribute: parameter names stay the same
    try:
        # torch compiles at the first call: here, where an error leaves nothing half done.
        for network in model.networks:
            shape = (sequences, model.positions, model.config.block_width)
            x = torch.zeros(shape, dtype=model.compute_dtype, device=model.device, requires_grad=backward)
            with torch.no_grad():
                model.net(network, x)
            if backward:
                model.net(network, x).float().sum().backward()
    except Exception as error:  # of many types, which are not public
        del vars(model)["net"]
        raise UserError(f"torch.compile failed ({type(error).__name__}); set {name} to false") from None
    finally:
        model.zero_grad()
