"""Bandits choose the relaxation parameter of every linear solve. Edit me, then: python study.py"""

import jax
import jax.numpy as jnp

from jaxsci import linear, sweep
from jaxsci.bandits import policies, wrappers
from jaxsci.demo import photographs

jax.config.update("jax_enable_x64", True)  # iteration counts at a tolerance of 1e-8 need double precision
ROUNDS, SEEDS = 1000, 2
ARMS, SOR, PCG = jnp.linspace(1.0, 1.95, 20), linear.methods.sor, linear.methods.ssor_pcg
PHOTOGRAPHS = linear.streams.perona_malik(photographs.noisy(), steps_per_image=30)
PROBLEMS = {  # stream, method, range of the context, a good fixed arm, tolerance
    "random shift": (linear.streams.shifted_laplacian((10, 10)), SOR, {"low": -0.15, "high": 0.65}, 16, 1e-8),
    "heat equation": (linear.streams.heat(25), PCG, {"low": 0.0, "high": 10.0}, 8, 1e-8),
    "photograph": (PHOTOGRAPHS, SOR, {"low": 0.0, "high": 2.0}, 11, 1e-6),
}
POLICIES = {
    "ω = 1": lambda good, theory, span: policies.fixed(20, arm=0),
    "fixed ω": lambda good, theory, span: policies.fixed(20, arm=good),
    "ε-greedy": lambda good, theory, span: policies.epsilon_greedy(20),
    "Tsallis-INF": lambda good, theory, span: policies.tsallis_inf(20, floor=1.0),
    "binned Tsallis-INF": lambda good, theory, span: wrappers.binned(policies.tsallis_inf(20, floor=1.0), 5, **span),
    "ChebCB": lambda good, theory, span: policies.cheb_cb(20, floor=1.0, **span),
    "learnt physics": lambda good, theory, span: linear.physics_policy(ARMS, method=theory, **span),
}


def point(key, problem, policy):
    """One policy on one sequence of problems: a record of every round."""
    stream, method, span, good, tol = PROBLEMS[problem]
    theory = "sor" if method is SOR else "ssor_pcg"
    chosen = wrappers.choose([make(good, theory, span) for make in POLICIES.values()], policy)
    return linear.tuned_sequence(key, stream, method, chosen, ARMS, num_rounds=ROUNDS, tol=tol).history


def study(**options):
    """All problems, policies and seeds as one labelled data set; `options` are those of `sweep.run`."""
    labels = sweep.stack({name: i for i, name in enumerate(POLICIES)}, dims=("policy",))
    space = sweep.product(problem=sweep.static(list(PROBLEMS)), policy=labels, key=sweep.keys(SEEDS))
    dims = {"point.status" if name == "status" else name: ("round",) for name in linear.TunedRecord._fields}
    units = {"steps": "iterations", "cost": "iterations", "parameter": "1", "residual": "1"}
    return sweep.run(point, space, dims=dims, units=units, **options)


if __name__ == "__main__":
    print(study().steps.sum("round").mean("key").to_pandas().to_string())
