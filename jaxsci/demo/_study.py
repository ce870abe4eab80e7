"""Bandits choose the relaxation parameter of every linear solve. Edit me, then: python study.py"""

import jax
import jax.numpy as jnp

from jaxsci import bandits, linear, sweep
from jaxsci.demo import photographs

jax.config.update("jax_enable_x64", True)  # iteration counts at a tolerance of 1e-8 need double precision
ARMS, SOR, PCG = jnp.linspace(1.0, 1.95, 20), linear.methods.sor, linear.methods.ssor_pcg
STEPS_PER_IMAGE, LAST_STEP = 40, 20.0
PICTURES = linear.streams.perona_malik(photographs.noisy(), steps_per_image=STEPS_PER_IMAGE, last_step=LAST_STEP)
PROBLEMS = {  # stream, method, range of the context, best fixed arm, tolerance
    "random shift": (linear.streams.shifted_laplacian((10, 10)), SOR, (-0.15, 0.65), 16, 1e-8),
    "heat equation": (linear.streams.heat(25), PCG, (0.0, 10.0), 4, 1e-8),
    "photograph": (PICTURES, SOR, (0.0, 2.0), 11, 1e-6),
}
RECORDED = ("steps", "parameter", "context", "status")
POLICIES = {
    "ω = 1": lambda low, high, best: bandits.fixed(20, arm=0),
    "best fixed ω": lambda low, high, best: bandits.fixed(20, arm=best),
    "ε-greedy": lambda low, high, best: bandits.epsilon_greedy(20),
    "Tsallis-INF": lambda low, high, best: bandits.tsallis_inf(20, floor=1.0),
    "binned Tsallis-INF": lambda low, high, best: bandits.binned(
        bandits.tsallis_inf(20, floor=1.0), 5, low=low, high=high
    ),
    "ChebCB": lambda low, high, best: bandits.cheb_cb(20, low=low, high=high, floor=1.0),
}


def point(key, problem, policy, rounds):
    stream, method, (low, high), best, tol = PROBLEMS[problem]
    chosen = bandits.choose([make(low, high, best) for make in POLICIES.values()], policy)
    _, record = linear.tuned_sequence(key, stream, method, chosen, ARMS, num_rounds=rounds, tol=tol)
    return {name: getattr(record, name) for name in RECORDED}


def study(rounds=1200, seeds=3, **options):
    policies = sweep.stack({name: i for i, name in enumerate(POLICIES)}, dims=("policy",))
    axes = dict(problem=sweep.static(list(PROBLEMS)), policy=policies, key=sweep.keys(seeds))
    dims = {name.replace("status", "point.status"): ("round",) for name in RECORDED}
    return sweep.run(point, sweep.product(**axes, rounds=sweep.static([rounds])), dims=dims, **options)


if __name__ == "__main__":
    print(study(out="study").steps.sum("round").mean("key").squeeze().to_pandas())
