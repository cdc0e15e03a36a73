from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.custom_puzzles import ALL, crop, meta_of
from trm.datasets.custom.augmentation import (
    AugmentationSpace,
    apply_transforms,
    augmentation_space,
    canonical_forms,
    draw_transforms,
    identity_transform,
    invert_transforms,
)


def augmentation_spaces() -> st.SearchStrategy[AugmentationSpace]:
    return st.builds(
        lambda height, width, names, fixed: augmentation_space(meta_of(height, width, "abcdef", names, fixed)),
        st.integers(1, 6),
        st.integers(1, 6),
        st.lists(st.sampled_from(ALL), unique=True),
        st.sampled_from(["", "a", "bdf", "abcdef"]),
    )


@given(space=augmentation_spaces(), seed=st.integers(0, 2**32), k=st.integers(0, 9))
@settings(deadline=None, max_examples=200)
def test_invert_is_inverse(space: AugmentationSpace, seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, space.height + 1)), int(rng.integers(1, space.width + 1)))
    grid = rng.integers(1, 7, shape, dtype=np.uint8)
    transforms = draw_transforms(space, rng, shape, k)
    canvases = apply_transforms(space, transforms, grid)
    assert canvases.shape == (k, space.height * space.width)
    assert ((canvases != 0).sum(axis=1) == grid.size).all()
    assert all(np.array_equal(inverted, grid) for inverted in invert_transforms(space, transforms, canvases, shape))
    fixed = sorted({*range(1, 7)} - set(space.free.tolist()))
    for canvas in canvases:
        assert [(canvas == token).sum() for token in fixed] == [(grid == token).sum() for token in fixed]
    # All augmentations have the canonical form of the puzzle.
    forms = canonical_forms(space, [grid, *(crop(canvas.reshape(space.height, -1)) for canvas in canvases)])
    assert len(set(forms)) == 1


@given(space=augmentation_spaces(), seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=200)
def test_canonical_forms_decide_equivalence(space: AugmentationSpace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, space.height + 1)), int(rng.integers(1, space.width + 1)))
    one, other = rng.integers(1, 4, (2, *shape), dtype=np.uint8)
    # Brute force: is there a symmetry and a permutation of the free tokens that maps one grid to the other?
    without_permutations = AugmentationSpace(
        space.height, space.width, space.symmetries, space.vocab_size, space.free[:0], False, False
    )
    equivalent = False
    for symmetry in space.symmetries:
        identity = identity_transform(without_permutations)
        draw = replace(identity, symmetries=identity.symmetries + symmetry)
        transformed = crop(apply_transforms(without_permutations, draw, one).reshape(space.height, -1))
        if transformed.shape != other.shape:
            continue
        image = set(zip(transformed.ravel().tolist(), other.ravel().tolist(), strict=True))
        bijective = len({a for a, _ in image}) == len(image) == len({b for _, b in image})
        equivalent |= bijective and all(a == b or {a, b} <= set(space.free.tolist()) for a, b in image)
    forms = canonical_forms(space, [one, other])
    assert (forms[0] == forms[1]) == equivalent


def test_canonical_forms_contain_shape() -> None:
    space = augmentation_space(meta_of(4, 4, "abcd", []))
    grid = np.arange(1, 5, dtype=np.uint8)
    assert len(set(canonical_forms(space, [grid.reshape(shape) for shape in ((1, 4), (2, 2), (4, 1))]))) == 3
