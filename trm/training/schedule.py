"""The learning rate schedule (docs/algorithm.md, Optimization)."""

import math


def learning_rate(step: int, base: float, warmup: int, total: int, min_ratio: float) -> float:
    """Linear warm-up, then a cosine from `base` down to `base * min_ratio` at `total`.

    `step` counts from 1 at the first update; `warmup` and `total` are steps too. `min_ratio` 1 is a constant rate.
    """
    if step < warmup:
        return base * step / warmup
    share = (step - warmup) / max(total - warmup, 1)
    return base * (min_ratio + (1 - min_ratio) * (1 + math.cos(math.pi * share)) / 2)
