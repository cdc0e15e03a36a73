"""The model variants, each a short description of its recursion.

All variants follow one scheme. A round updates the latent states in turn, then the answer:

    z_i = net_L(z_1 + ... + z_n, y + x)      L_cycles passes, i = 1, 2, ...
    y   = net_H(y, z_1 + ... + z_n)          the last pass of the round

where net(state, injected) runs the blocks on state + injected. In `trm_singlez` the latent is the answer: there is no
y, and the sums lack it. In `transformers_baseline` there are no latents, and the answer pass reads x.
"""

from dataclasses import dataclass

from trm.config.model import ModelParams


@dataclass(frozen=True)
class Variant:
    """The recursion of one architecture."""

    latents: tuple[str, ...]
    """The states that the passes of a round update, in turn."""
    answer: str
    """The state that the last pass of a round updates, and that the output heads read."""
    networks: tuple[str, str]
    """The networks that update the latents and the answer: L has `L_layers` blocks, H has `H_layers`."""
    short_gradient: bool = False
    """True: only the last latent pass and the answer pass of the last round are differentiated."""

    @property
    def states(self) -> tuple[str, ...]:
        """The states carried from one supervision step to the next."""
        return tuple(dict.fromkeys((self.answer, *self.latents)))

    def random_states(self, random_start: str) -> tuple[str, ...]:
        """The states that start from noise with this value of `model.random_start`."""
        return {"none": (), "latents": self.latents, "all": self.states}[random_start]

    def rounds(self, config: ModelParams) -> int:
        """Rounds of a supervision step."""
        return config.H_cycles if self.latents else 1

    def passes(self, config: ModelParams) -> int:
        """Latent passes of a round."""
        return config.L_cycles if self.latents else 0

    def gradient_passes(self, config: ModelParams) -> int:
        """Passes at the end of a supervision step that are differentiated."""
        round_passes = self.passes(config) + 1
        default = min(2, round_passes) if self.short_gradient else round_passes
        return min(config.gradient_passes or default, self.rounds(config) * round_passes)

    def blocks(self, config: ModelParams) -> dict[str, int]:
        """Network name -> number of blocks, for the networks in use."""
        sizes = {"L": config.L_layers, "H": config.H_layers}
        return {name: sizes[name] for name in dict.fromkeys(self.networks)}

    def depth(self, config: ModelParams) -> int:
        """Blocks that run in a supervision step."""
        blocks, (low, high) = self.blocks(config), self.networks
        return self.rounds(config) * (self.passes(config) * blocks[low] + blocks[high])


VARIANTS = {
    "trm": Variant(latents=("z",), answer="y", networks=("L", "L")),
    "trm_singlez": Variant(latents=("z",), answer="z", networks=("L", "L")),
    "trm_hier6": Variant(latents=("z1", "z2", "z3", "z4", "z5", "z6"), answer="y", networks=("L", "L")),
    "hrm": Variant(latents=("z",), answer="y", networks=("L", "H"), short_gradient=True),
    "transformers_baseline": Variant(latents=(), answer="y", networks=("H", "H")),
}
"""Name in `model.arch` -> variant."""
