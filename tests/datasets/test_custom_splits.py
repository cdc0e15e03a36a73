"""Leakage between the splits of custom puzzles."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from tests.custom_puzzles import generate_dataset, meta_of, settings_of
from trm.config.data import AugmentParams
from trm.datasets.custom.augmentation import augmentation_space, canonical_forms
from trm.utils.errors import UserError


@pytest.mark.parametrize(
    ("second", "symmetries", "leaks"),
    [
        ("ab/..", [], True),
        ("a./b.", [], False),
        ("a./b.", ["dihedral"], True),
        ("b./a.", ["dihedral"], True),
        ("xy/..", ["dihedral"], False),
        ("xy/..", ["permute_symbols"], True),
        (".x/.y", ["dihedral", "permute_symbols"], True),
        ("ab/xx", ["permute_symbols"], False),  # the dot is fixed
        ("ab", ["translate"], False),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_leakage_into_test_split(tmp_path: Path, second: str, symmetries: list[str], leaks: bool, seed: int) -> None:
    other = "/".join("." * len(row) for row in second.split("/"))  # the output may differ
    path = tmp_path / "mine.csv"
    rows = f"ab/..,ab/..\n{second},{other}\n"
    path.write_text(f"input,output\n{rows}")
    changes: dict[str, object] = {"symmetries": symmetries, "fixed_symbols": ".", "test_groups": 1, "seed": seed}
    changes |= {"alphabet": "abxy.", "height": 3, "width": 3}
    if not leaks:
        generate_dataset(settings_of(path, **changes), tmp_path / "data")
        return
    with pytest.raises(UserError, match=r"^data.test_groups: 1 groups cannot be held out .* or set data.allow_leakage"):
        generate_dataset(settings_of(path, **changes), tmp_path / "data")
    generate_dataset(settings_of(path, **changes, allow_leakage=True), tmp_path / "allowed")
    path.write_text("input,output,group\n" + rows.replace("\n", ",one\n") + "yy,yy,two\n")
    generate_dataset(settings_of(path, **changes), tmp_path / "grouped")


def test_equivalent_puzzles_are_in_the_same_split(tmp_path: Path) -> None:
    """30 puzzles, each also rotated by 180 degrees in another group, and 5 further puzzles."""
    rng = np.random.default_rng(0)
    grids = rng.integers(0, 10, (35, 3, 3))
    both = [*grids, *(np.rot90(grid, 2) for grid in grids[:30])]
    rows = ["/".join("".join(map(str, line)) for line in grid) for grid in both]
    path = tmp_path / "mine.csv"
    params = AugmentParams(num_aug=0, validation_groups=20, seed=0)
    space = augmentation_space(meta_of(3, 3, "0123456789", ["dihedral"]))

    def shared(allow_leakage: bool) -> int:
        data = settings_of(path, test_groups=5, symmetries=["dihedral"], allow_leakage=allow_leakage)
        splits = generate_dataset(data, tmp_path / str(allow_leakage), params)
        assert len(set(splits["validation"].groups.tolist())) == 20
        forms = {name: set(canonical_forms(space, list(splits[name].inputs[:].reshape(-1, 3, 3)))) for name in splits}
        return sum(len(forms[one] & forms[other]) for one, other in combinations(forms, 2))

    path.write_text("input,output\n" + "".join(f"{row},{row}\n" for row in rows))
    assert shared(allow_leakage=True) > 5
    assert shared(allow_leakage=False) == 0


def test_groups_connected_by_equal_inputs_stay_together(tmp_path: Path) -> None:
    """Groups a and b share 11, b and c share 22; d and e share nothing, and one of them is without_copy."""
    path = tmp_path / "mine.csv"
    lines = ["31,31,c", "11,12,a", "22,22,b", "11,11,b", "22,21,c", "13,13,d", "23,23,e"]
    path.write_text("input,output,group\n" + "\n".join(lines) + "\n")
    # The test group is one that shares nothing.
    data = next(
        settings_of(path, test_groups=1, seed=seed)
        for seed in range(99)
        if np.random.default_rng(np.random.SeedSequence(seed)).permutation(3)[0] > 0
    )
    held_out = set()
    for seed in range(12):
        params = AugmentParams(num_aug=0, validation_groups=3, seed=seed)
        try:
            splits = generate_dataset(data, tmp_path / str(seed), params)
        except UserError as error:  # the group that shares nothing was drawn first
            assert "3 groups cannot be held out because equivalent puzzles" in str(error)
            continue
        held_out.add("".join(sorted({str(name) for name in splits["validation"].sources})))
    assert held_out == {"abc"}
    params = AugmentParams(num_aug=0, validation_groups=2, seed=0)
    with pytest.raises(UserError, match=r"^augment.validation_groups: 2 groups cannot be held out .* set it to 1, or"):
        generate_dataset(data, tmp_path / "two", params)


def test_equal_puzzles_are_in_the_same_split(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("input,output\n12,21\n12,21\n11,22\n13,31\n")
    for seed in range(6):
        data = settings_of(path, test_groups=2, seed=seed)
        splits = generate_dataset(data, tmp_path / str(seed))
        assert set(splits["test"].groups.tolist()) in ({0, 1}, {2, 3})
