"""Particle decoding: sequences of any `core.protocols.SequenceModel`, tilted by a reward.

Builds on: core, and the filters of this room. Start reading at `_reward.py` (what is aimed at), then `_particles.py`.
"""

from jaxsci.core import entry
from jaxsci.smc.decoding._beam import beam_search
from jaxsci.smc.decoding._filter import best_of_n, majority, particle_filter, particle_gibbs
from jaxsci.smc.decoding._particles import Decoded, Sequences
from jaxsci.smc.decoding._reward import Reward
from jaxsci.smc.decoding._trees import tree, tree_posterior
from jaxsci.smc.decoding._verifiers import ResamplingLaw, resampling_law

__all__ = [
    "Decoded",
    "ResamplingLaw",
    "Reward",
    "Sequences",
    "beam_search",
    "best_of_n",
    "majority",
    "particle_filter",
    "particle_gibbs",
    "resampling_law",
    "tree",
    "tree_posterior",
]

entry.guard(globals())
