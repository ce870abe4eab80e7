"""Bandit policies: triples (init, select, update) of pure functions over losses, never rewards.

Builds on: core. Every factory returns a `core.protocols.Policy` whose hyper-parameters are traced leaves; `binned`
makes a contextual policy out of any other, `choose` one policy out of several. Start reading at `simple.py`.
"""

from jaxsci.bandits.binned import binned
from jaxsci.bandits.chebyshev import ChebyshevState, cheb_cb, chebyshev_features, inverse_gap_weights
from jaxsci.bandits.choose import choose
from jaxsci.bandits.simple import Means, Nothing, epsilon_greedy, fixed, uniform
from jaxsci.bandits.tsallis import TsallisState, tsallis_inf, tsallis_probabilities

__all__ = [
    "ChebyshevState",
    "Means",
    "Nothing",
    "TsallisState",
    "binned",
    "cheb_cb",
    "chebyshev_features",
    "choose",
    "epsilon_greedy",
    "fixed",
    "inverse_gap_weights",
    "tsallis_inf",
    "tsallis_probabilities",
    "uniform",
]
