"""Metadata of a dataset, for the model and the evaluation: grid size, vocabulary, identifiers."""

from pydantic import BaseModel, ConfigDict

END = "end"
"""The entry of a vocabulary for the token that delimits a grid on the canvas."""


class DatasetMeta(BaseModel):
    """Stored as `meta.json` in the dataset folder and in every checkpoint.

    Token t represents `vocabulary[t]`; token 0 is always padding.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Name of the dataset, a folder of `trm.datasets`."""
    height: int
    width: int
    vocabulary: tuple[str, ...]
    num_identifiers: int
    edition: str = ""
    """Edition of ARC: arc-agi-1 or arc-agi-2; empty for other datasets."""
    puzzles_digest: str = ""
    """SHA-256 of the puzzle names in order, one per line; empty if puzzles have no separate identifiers."""
    symmetries: tuple[str, ...] = ()
    """Symmetries under which puzzles remain valid; empty if they are not a setting of the dataset."""
    fixed_symbols: tuple[str, ...] = ()
    """Symbols that permutations of symbols leave unchanged."""

    @property
    def seq_len(self) -> int:
        """Number of grid tokens of an example (L)."""
        return self.height * self.width

    @property
    def first_cell_token(self) -> int:
        """Tokens from this one on are cells. The lower ones are padding and, if an output may have another shape than
        its input, the end of a grid (token 1).
        """
        return 2 if self.vocabulary[1] == END else 1

    @property
    def vocab_size(self) -> int:
        """Number of tokens in the vocabulary (V)."""
        return len(self.vocabulary)

    def has_puzzles_of(self, other: "DatasetMeta") -> bool:
        """Whether the datasets have puzzles of the same kind: name, canvas and vocabulary."""
        return all(getattr(self, name) == getattr(other, name) for name in ("name", "height", "width", "vocabulary"))
