"""What contextual policies predict losses with.

A `Regressor` is a triple (init, predict, update) that predicts the loss of every arm from a context; `ridge` and
`network` are two, and `policies.square_cb`, `policies.fast_cb` and `policies.greedy_cb` play over any of them.
`gp_surrogate` is the Gaussian process over pairs of context and arm under `policies.gp_ucb` and `policies.gp_ts`;
`interface_model` and `interface_prior` are its default kernel and prior.
"""

from jaxsci.bandits._gaussian_process import GPSurrogate, gp_surrogate, interface_model, interface_prior
from jaxsci.bandits._neural import NetworkState, network
from jaxsci.bandits._ridge import Regressor, RidgeState, ridge
from jaxsci.core import entry

__all__ = [
    "GPSurrogate",
    "NetworkState",
    "Regressor",
    "RidgeState",
    "gp_surrogate",
    "interface_model",
    "interface_prior",
    "network",
    "ridge",
]

entry.guard(globals())
