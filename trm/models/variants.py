"""The members of the arch, each a short description of its recursion (spec section 5).

All follow one scheme. A round renews the latent states in turn, then the answer:

    z_i = net_L(z_1 + ... + z_n, y + x)      L_cycles passes, i = 1, 2, ...
    y   = net_H(y, z_1 + ... + z_n)          the last pass of the round

where net(state, injected) runs the blocks on state + injected. Where the answer is a latent itself (single state) there
is no y, and what would read it reads nothing. Where there are no latents (direct) the answer's pass reads x.
"""

from dataclasses import dataclass

from trm.config.model import ModelParams


@dataclass(frozen=True)
class Member:
    """What tells a member from the others."""

    latents: tuple[str, ...]
    """The states that the passes of a round renew, in turn."""
    answer: str
    """The state that the last pass of a round renews, and that is read out."""
    networks: tuple[str, str]
    """Which network renews the latents, and which the answer: L has `L_layers` blocks, H has `H_layers`."""
    short_gradient: bool = False
    """True: of the last round, the last pass of the latents and that of the answer alone are differentiated."""

    @property
    def states(self) -> tuple[str, ...]:
        """What is carried from one supervision step to the next."""
        return tuple(dict.fromkeys((self.answer, *self.latents)))

    def rounds(self, config: ModelParams) -> int:
        """Rounds of a supervision step."""
        return config.H_cycles if self.latents else 1

    def passes(self, config: ModelParams) -> int:
        """Passes of a round before that of the answer."""
        return config.L_cycles if self.latents else 0

    def blocks(self, config: ModelParams) -> dict[str, int]:
        """The networks that there are, and their numbers of blocks."""
        sizes = {"L": config.L_layers, "H": config.H_layers}
        return {name: sizes[name] for name in dict.fromkeys(self.networks)}

    def depth(self, config: ModelParams) -> int:
        """Blocks that a state goes through in a supervision step."""
        blocks, (low, high) = self.blocks(config), self.networks
        return self.rounds(config) * (self.passes(config) * blocks[low] + blocks[high])


VARIANTS = {
    "trm": Member(latents=("z",), answer="y", networks=("L", "L")),
    "trm_singlez": Member(latents=("z",), answer="z", networks=("L", "L")),
    "trm_hier6": Member(latents=("z1", "z2", "z3", "z4", "z5", "z6"), answer="y", networks=("L", "L")),
    "hrm": Member(latents=("z",), answer="y", networks=("L", "H"), short_gradient=True),
    "transformers_baseline": Member(latents=(), answer="y", networks=("H", "H")),
}
