r"""Search for solvers: evolution of `unified.Decisions`, helped by a learned predictor of their losses.

A population is a stack of decisions; `random`, `mutate` and `crossover` are compiled and vmapped, a population becomes
one stack of tables and is evaluated by one vmapped call of ``objective(table)``. The number of model calls is kept:
an analytic first step buys one node more.

Multi-stage proposals: the first evaluations are plain evolution. Then, before every batch, a perceptron is fitted to
all losses seen so far by the pairwise ranking loss $\sum_{L_i < L_j}\log(1 + e^{s_i - s_j})$ of its scores s, many more
children are made than can be afforded, and those of the lowest scores are evaluated. The features are the normalised
nodes and the one-hot decisions of all rows; architecture and stages are this library's own choice.

References: E. Liu, X. Ning, H. Yang, Y. Wang, "A Unified Sampling Framework for Solver Searching of Diffusion
Probabilistic Models", 2024, section 5 (S^3) and appendix (evolutionary operators and their probabilities).
"""

from jaxsci.core import entry
from jaxsci.diffusion.search._search import (
    History,
    Result,
    load_history,
    matching,
    search,
    starting_population,
)
from jaxsci.diffusion.search._space import Space, crossover, mutate, random, space

__all__ = [
    "History",
    "Result",
    "Space",
    "crossover",
    "load_history",
    "matching",
    "mutate",
    "random",
    "search",
    "space",
    "starting_population",
]

entry.guard(globals())
