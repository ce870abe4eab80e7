"""jaxsci: functional numerics in JAX.

Every algorithm is a pure function over pytrees; a family shares one core; a study is a vmap of it; the hot
loops have kernels. Rooms load lazily: ``import jaxsci`` costs little and ``jaxsci.linear.solve`` works.

A room imports ``core``, the kernels, and the rooms its row names; rows name only lower floors
(``tests/test_layers.py`` enforces this table):

=====  ==================  ==========================================================  ===========================
floor  room                holds                                                       builds on
=====  ==================  ==========================================================  ===========================
0      pallas_kernels      hot loops: reference, TPU and GPU kernels, custom_vjp       -
1      core                types, pytree arithmetic, status, loops, protocols,         -
                           training loop, checkpoints
2      linear              operators, solvers, tuned sequences of solves               -
2      gp                  Gaussian processes of fixed size: kernels, condition,       -
                           append, predict, sample, fit
2      quadrature          rules as (nodes, weights): classical, Bayesian              -
2      smc                 Feynman-Kac models, resampling, particle filters            -
2      nn                  networks as init and apply: perceptron, transformer         -
2      sweep               spaces x devices x checkpoints -> labelled results          -
2      plot                one-call figures from Datasets and results                  -
3      bandits             policies: (init, select, update)                            gp, nn
3      control             continuous-time problems, martingale policy evaluation,     quadrature, nn
                           integral RL, linear-quadratic truths
3      diffusion           schedules, predictions, grids, solvers as tables,           nn, smc
                           statistics, search, guidance, likelihood, correctors
3      pfn                 prior-data fitted networks: priors, bar distribution,       gp, nn
                           training, learning curves, shipped weights
3      quantization        formats, optimal grids, quantisation-aware training         nn, linear
4      rl                  learning in discrete time: replay buffer, deep Q-learning,   bandits, nn
                           step sizes of a three-body integrator
4      models              small real models on real data that ships with packages     nn, diffusion, quantization
top    demo                scenes and the command line; nothing imports it             all
=====  ==================  ==========================================================  ===========================
"""

import importlib
import importlib.metadata

# The rooms, and the functions with the module that each comes from; all lazy, see __getattr__.
__all__ = [  # noqa: F822
    "bandits",
    "check",
    "control",
    "core",
    "diffusion",
    "explain",
    "gp",
    "linear",
    "models",
    "nn",
    "pfn",
    "plot",
    "quadrature",
    "quantization",
    "rl",
    "smc",
    "sweep",
]
_FUNCTIONS = {"check": "core.status", "explain": "core.status"}

try:
    __version__ = importlib.metadata.version("jaxsci")
except importlib.metadata.PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str):
    """Load a room, ``check`` or ``explain`` at its first use (PEP 562)."""
    if name in _FUNCTIONS:
        value = getattr(importlib.import_module(f"jaxsci.{_FUNCTIONS[name]}"), name)
        globals()[name] = value
        return value
    if name in __all__:
        return importlib.import_module(f"jaxsci.{name}")
    raise AttributeError(f"module 'jaxsci' has no attribute {name!r}; it offers {', '.join(__all__)}")


def __dir__():
    return sorted([*__all__, "__version__"])
