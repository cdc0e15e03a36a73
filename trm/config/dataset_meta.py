"""What a data set says of itself to the model and to the evaluation: canvas, vocabulary, identifiers."""

from pydantic import BaseModel, ConfigDict


class DatasetMeta(BaseModel):
    """Travels as `meta.json` beside a data set and inside every checkpoint.

    Token t stands for `vocabulary[t]`; token 0 is always padding.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    height: int
    width: int
    vocabulary: tuple[str, ...]
    num_identifiers: int
    edition: str = ""
    """Which of several data sets of one kind: arc-agi-1 or arc-agi-2."""
    puzzles_digest: str = ""
    """Where puzzles have identifiers of their own: the sha256 of their names in order, one a line."""
    symmetries: tuple[str, ...] = ()
    """Where the settings choose them: the symmetries under which a puzzle stays a puzzle."""
    fixed_symbols: tuple[str, ...] = ()
    """Symbols that no permutation of symbols moves."""

    @property
    def seq_len(self) -> int:
        """Grid tokens of an example (L)."""
        return self.height * self.width

    @property
    def vocab_size(self) -> int:
        """Tokens there are (V)."""
        return len(self.vocabulary)
