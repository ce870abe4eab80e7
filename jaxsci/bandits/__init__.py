"""Bandit policies: triples (init, select, update) of pure functions over losses, never rewards.

Builds on: core, gp, nn. Every factory returns a `core.protocols.Policy` whose hyper-parameters are traced leaves;
`binned` and `encoded` make contextual policies out of others, `choose` one policy out of several, and `square_cb` one
out of any `Regressor`. Start reading at `_simple.py`.
"""

from jaxsci.bandits._binned import binned
from jaxsci.bandits._chebyshev import ChebyshevState, cheb_cb, chebyshev_features
from jaxsci.bandits._choose import choose
from jaxsci.bandits._delayed import DelayedState, delayed, delayed_hold, delayed_settle
from jaxsci.bandits._exponential import ExponentialState, exp3, exp3_ix, exp3_p, exponential_weights
from jaxsci.bandits._features import disjoint_features, encoded
from jaxsci.bandits._forgetting import DiscountedState, WindowedState, discounted, windowed
from jaxsci.bandits._gaussian_process import (
    GPState,
    GPSurrogate,
    gp_surrogate,
    gp_ts,
    gp_ucb,
    interface_model,
    interface_prior,
)
from jaxsci.bandits._inverse_gap import InverseGapState, fast_cb, greedy_cb, inverse_gap_weights, square_cb
from jaxsci.bandits._linear import lin_ts, lin_ucb
from jaxsci.bandits._moments import Moments
from jaxsci.bandits._neural import NetworkState, network, neu_fast_cb, neu_square_cb
from jaxsci.bandits._regret import Regret, regret
from jaxsci.bandits._replay import Replay, ReplayState, replay, update_batch
from jaxsci.bandits._ridge import Regressor, RidgeState, ridge
from jaxsci.bandits._simple import Nothing, epsilon_greedy, fixed, uniform
from jaxsci.bandits._thompson import thompson_beta, thompson_gaussian, thompson_normal_inverse_gamma
from jaxsci.bandits._tsallis import TsallisState, tsallis_inf, tsallis_probabilities
from jaxsci.bandits._ucb import ucb1, ucb_v

__all__ = [
    "ChebyshevState",
    "DelayedState",
    "DiscountedState",
    "ExponentialState",
    "GPState",
    "GPSurrogate",
    "InverseGapState",
    "Moments",
    "NetworkState",
    "Nothing",
    "Regressor",
    "Regret",
    "Replay",
    "ReplayState",
    "RidgeState",
    "TsallisState",
    "WindowedState",
    "binned",
    "cheb_cb",
    "chebyshev_features",
    "choose",
    "delayed",
    "delayed_hold",
    "delayed_settle",
    "discounted",
    "disjoint_features",
    "encoded",
    "epsilon_greedy",
    "exp3",
    "exp3_ix",
    "exp3_p",
    "exponential_weights",
    "fast_cb",
    "fixed",
    "gp_surrogate",
    "gp_ts",
    "gp_ucb",
    "greedy_cb",
    "interface_model",
    "interface_prior",
    "inverse_gap_weights",
    "lin_ts",
    "lin_ucb",
    "network",
    "neu_fast_cb",
    "neu_square_cb",
    "regret",
    "replay",
    "ridge",
    "square_cb",
    "thompson_beta",
    "thompson_gaussian",
    "thompson_normal_inverse_gamma",
    "tsallis_inf",
    "tsallis_probabilities",
    "ucb1",
    "ucb_v",
    "uniform",
    "update_batch",
    "windowed",
]
