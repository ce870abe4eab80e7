r"""Bandit policies: factories of `core.protocols.Policy`, triples (init, select, update) over losses, never rewards.

A factory's hyper-parameters are traced leaves of the policy, so a new value compiles nothing; sizes are static. Each
docstring says which range of losses its policy expects.

Baselines: `fixed`, `uniform`, `epsilon_greedy`. Stochastic worlds: `ucb1`, `ucb_v`, `thompson_beta`,
`thompson_gaussian`, `thompson_normal_inverse_gamma`. Adversarial worlds: `exp3`, `exp3_ix`, `exp3_p`; both kinds of
world: `tsallis_inf`. With a scalar context: `cheb_cb`. With a vector of features: `lin_ucb`, `lin_ts`, and over any
regressor `square_cb`, `fast_cb`, `greedy_cb`, of which `neu_square_cb` and `neu_fast_cb` are the neural ones. Over sets
of related arms: `gp_ucb`, `gp_ts`. The records are what the policies remember.

A mask puts arms to sleep for a round. Adversarial policies charge a sleeping arm what was paid meanwhile, so that it
wakes where it fell asleep. Where `log_prob` is 0 because the choice is deterministic or its distribution has no closed
form (UCB, Thompson, LinUCB, GP), no importance weight can be taken from it.

Reference: Lattimore and Szepesvari 2020, Bandit Algorithms; each policy names its own.
"""

from jaxsci.bandits._chebyshev import ChebyshevState, cheb_cb
from jaxsci.bandits._exponential import ExponentialState, exp3, exp3_ix, exp3_p
from jaxsci.bandits._gaussian_process import GPState, gp_ts, gp_ucb
from jaxsci.bandits._inverse_gap import InverseGapState, fast_cb, greedy_cb, square_cb
from jaxsci.bandits._linear import lin_ts, lin_ucb
from jaxsci.bandits._moments import Moments
from jaxsci.bandits._neural import neu_fast_cb, neu_square_cb
from jaxsci.bandits._simple import Nothing, epsilon_greedy, fixed, uniform
from jaxsci.bandits._thompson import thompson_beta, thompson_gaussian, thompson_normal_inverse_gamma
from jaxsci.bandits._tsallis import TsallisState, tsallis_inf
from jaxsci.bandits._ucb import ucb1, ucb_v
from jaxsci.core import entry

__all__ = [
    "ChebyshevState",
    "ExponentialState",
    "GPState",
    "InverseGapState",
    "Moments",
    "Nothing",
    "TsallisState",
    "cheb_cb",
    "epsilon_greedy",
    "exp3",
    "exp3_ix",
    "exp3_p",
    "fast_cb",
    "fixed",
    "gp_ts",
    "gp_ucb",
    "greedy_cb",
    "lin_ts",
    "lin_ucb",
    "neu_fast_cb",
    "neu_square_cb",
    "square_cb",
    "thompson_beta",
    "thompson_gaussian",
    "thompson_normal_inverse_gamma",
    "tsallis_inf",
    "ucb1",
    "ucb_v",
    "uniform",
]

entry.guard(globals())
