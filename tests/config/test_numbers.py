"""Numbers in settings."""

import pytest

from trm.config.base import parse
from trm.config.training import SignSgdParams
from trm.utils.errors import ParamsError


@pytest.mark.parametrize("number", [10**400, -(10**400)])
def test_integers_beyond_the_largest_float(number: int) -> None:
    with pytest.raises(ParamsError, match=r"^params: lr "):
        parse(SignSgdParams, {"name": "sign_sgd", "lr": number, "weight_decay": 1}, "params")
