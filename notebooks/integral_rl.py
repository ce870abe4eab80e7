# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which rule should I use?
#
# Integral reinforcement learning finds the optimal control of $\dot x = f(x) + g(x)u$ without knowing $f$: it measures
# the cost $\int x^\top Q x + u^\top R u\,dt$ paid on short stretches of a trajectory, fits a value function to it, and
# improves the policy. The integral comes from $N$ samples by a quadrature rule. How much does the rule matter?
#
# Policy iteration is Newton's method on the Hamilton-Jacobi-Bellman equation. An evaluation that is wrong by
# $\bar\varepsilon$ moves the limit by $\bar\varepsilon$ to first order: **the error of the learnt controller is the
# error of the rule**. Everything below is one `vmap` over rules.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import scipy

from jaxsci import check, plot, quadrature, sweep
from jaxsci.control import integral, riccati

jax.config.update("jax_enable_x64", True)
FAST = os.environ.get("JAXSCI_FAST") == "1"
SIZES = (3, 5, 9) if FAST else (3, 5, 7, 9, 11, 13, 15)
DELTA = 0.1  # length of one stretch


def matern(nu, jitter=0.0):
    kernel = quadrature.embeddings.matern(nu, 0.3)
    return lambda n, a, b: quadrature.rules.bayesian(n, a, b, kernel=kernel, jitter=jitter)


RULES = {
    "trapezoid": quadrature.rules.trapezoid,
    "Matern 3/2": matern(1.5),
    "Matern 7/2": matern(3.5),
    "Simpson": quadrature.rules.simpson,
    "Clenshaw-Curtis": quadrature.rules.clenshaw_curtis,
    "Gauss-Legendre": quadrature.rules.gauss_legendre,
}


def stacked(rules):
    """All rules in all sizes as one labelled axis pair; zero weights pad them to one length."""
    entries = {
        (name, n - 1): quadrature.pad(rule(n, 0.0, DELTA), max(SIZES)) for name, rule in rules.items() for n in SIZES
    }
    return sweep.stack(entries, dims=("rule", "intervals"))


# %% [markdown]
# ## A linear task, where the limit is known in closed form
#
# For $\dot x = Ax + Bu$ an evaluation with a rule $(t_j, w_j)$ is exactly a discrete Lyapunov equation,
# $P - E^\top P E = \sum_j w_j e^{A_c^\top t_j}(Q + K^\top R K)e^{A_c t_j}$, $E = e^{A_c\Delta}$, so the limit needs no
# trajectory. The Matern rules are Bayesian quadrature, whose weights are $K^{-1}z$.

# %%
A = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [-0.1, -0.5, -0.7]])
B = np.array([[0.0], [0.0], [1.0]])
Q, R = np.eye(3), np.eye(1)
P, K = riccati.solve(A, B, Q, R)


def draw(errors, title, references=(-2, -4, -5)):
    """Rules with an order get their slope; those that are exact after a few nodes are only drawn."""
    spectral = [name for name in ("Clenshaw-Curtis", "Gauss-Legendre") if name in errors["rule"]]
    ax = plt.subplots(figsize=(7.2, 4.4), dpi=125, layout="constrained")[1]
    for name, color in zip(spectral, ("#E69F00", "black")):  # first, so that labels are placed in the final limits
        one = errors.sel(rule=name)
        ax.plot(one["intervals"], one, "s--", color=color, markersize=4, linewidth=1, label=name)
    lines = list(ax.lines)
    plot.orders(errors.drop_sel(rule=spectral), x="intervals", by="rule", references=references, title=title, ax=ax)
    if spectral:
        ax.legend(handles=lines, loc="lower left", bbox_to_anchor=(0.62, 0.2))
    ax.set_xticks(errors["intervals"].values, labels=[str(i) for i in errors["intervals"].values])
    ax.minorticks_off()
    return ax


def linear_limit(rule):
    found = riccati.integral_fixed_point(A, B, Q, R, rule, DELTA)
    return {"error": jnp.linalg.norm(found.value - P), "status": found.status}


limits = check(sweep.run(linear_limit, sweep.product(rule=stacked(RULES)), progress=False))
ax = draw(limits["error"], "linear task: ||P - P*||")
closed, M = A - B @ K, Q + K.T @ R @ K
h = DELTA / (np.array(SIZES) - 1)
once = closed.T @ M + M @ closed
twice = closed.T @ once + once @ closed
thrice = closed.T @ twice + twice @ closed
for term in (h**2 / 12 * np.linalg.norm(once), h**4 / 180 * np.linalg.norm(thrice)):
    ax.plot(np.array(SIZES) - 1, term, "k:", linewidth=1)
plt.show()

# %% [markdown]
# Grey: the predicted rates. The trapezoid gains $N^{-2}$, Simpson $N^{-4}$, a Matern rule of smoothness $\nu$
# about $N^{-(\nu + 3/2)}$. Dotted: the predicted errors themselves, $\frac{h^2}{12}\|\mathcal L(M)\|$ for the trapezoid
# and $\frac{h^4}{180}\|\mathcal L^3(M)\|$ for Simpson, with $\mathcal L(X) = A_c^\top X + X A_c$, $M = Q + K^\top R K$.
# At every $N$ here Simpson, three lines of code, beats the Bayesian rule that was told the integrand is smooth.

# %%
for name in RULES:
    print(f"{name:16s}", *(f"{float(e):9.1e}" for e in limits["error"].sel(rule=name)))
measured = limits["error"].sel(rule="trapezoid").values
assert np.allclose(measured[-1], h[-1] ** 2 / 12 * np.linalg.norm(once), rtol=3e-3)
assert (limits["error"].sel(rule="Simpson") < limits["error"].sel(rule="Matern 7/2") / 30).all()

# %% [markdown]
# ## A nonlinear task, learnt from one trajectory
#
# $\dot x_1 = -x_1 + x_2$, $\dot x_2 = -\frac12(x_1 + x_2) + \frac12 x_2\sin^2 x_1 + \sin(x_1)\,u$ has the optimal value
# $V = \frac12 x_1^2 + x_2^2$. The learner sees samples of one trajectory, 20 stretches for each evaluation; the policy
# changes on the fly. Four or five evaluations suffice.


# %%
def drift(x, args):
    return jnp.array([-x[0] + x[1], -0.5 * (x[0] + x[1]) + 0.5 * x[1] * jnp.sin(x[0]) ** 2])


def input_matrix(x, args):
    return jnp.array([[0.0], [jnp.sin(x[0])]])


PROBLEM = integral.ControlAffine(drift, input_matrix, jnp.eye(2), jnp.eye(1))
truth = jnp.array([0.5, 0.0, 1.0])
residuals = jax.vmap(lambda x: riccati.hjb_residual(lambda y: integral.quadratic(y) @ truth, PROBLEM, x))
points = jax.random.normal(jax.random.key(0), (100, 2))
print("largest HJB residual of the truth:", float(jnp.abs(residuals(points)).max()))


def learn(rule):
    first = jnp.array([-1.0, 3.0, 1.5])
    found = integral.policy_iteration(PROBLEM, integral.quadratic, first, jnp.ones(2), rule=rule, tol=1e-6)
    return {"error": jnp.linalg.norm(found.value - truth), "steps": found.steps, "status": found.status}


learnt = check(sweep.run(learn, sweep.product(rule=stacked(RULES)), progress=False))
draw(learnt["error"], "nonlinear task: ||w - w*||")
plt.show()
print("evaluations:", int(learnt["steps"].min()), "to", int(learnt["steps"].max()))

# %% [markdown]
# The same picture: what decides is the rule, not the learning. Gauss and Clenshaw-Curtis end at the solver's tolerance.
#
# ## A default that costs digits
#
# Libraries add a jitter to the Gram matrix, often 1e-8, so that its factorisation never fails. It models noise that
# exact samples do not have, and takes over from about seven nodes on. Weights in float64 without jitter are good here
# up to 15 nodes; a warning tells when they are not.

# %%
jitters = {"none": matern(3.5), "1e-12": matern(3.5, 1e-12), "1e-10": matern(3.5, 1e-10), "1e-8": matern(3.5, 1e-8)}
noisy = check(sweep.run(linear_limit, sweep.product(rule=stacked(jitters)), progress=False))
draw(noisy["error"], "linear task: Matern 7/2 with jitter", references=(-5,))
plt.show()
assert float(noisy["error"].sel(rule="1e-8")[-1]) > 3 * float(noisy["error"].sel(rule="none")[-1])

# %% [markdown]
# ## How far can an error of the rule push the limit?
#
# $e_{i+1} \le c\,e_i^2 + \bar\varepsilon$ settles at `newton_bound(c, eps)`, between $\bar\varepsilon$ and
# $2\bar\varepsilon$ as long as $4c\bar\varepsilon \le 1$; beyond, nothing is promised.

# %%
history = np.asarray(riccati.kleinman(A, B, Q, R, num_iterations=7).P)
exact = np.linalg.norm(history - P, axis=(1, 2))
c = (exact[4:] / exact[3:-1] ** 2).max()
print(f"Kleinman's errors: {' '.join(f'{e:.1e}' for e in exact)}; so c is about {c:.2f}")
for eps in (1e-6, 1e-3, 0.1, 1.0, 2.0):
    print(f"evaluation error {eps:7.0e} -> limit error at most {float(integral.newton_bound(c, eps)):.3g}")

# %% [markdown]
# ## A plant of your own
#
# The learner needs states at the nodes, whoever measured them. Here a model of an aircraft's pitch (Vrabie and Lewis
# 2009) is flown by SciPy, in NumPy alone; the problem that the learner is given has NaN for the drift. Twelve stretches
# of `DELTA` from random states a policy, six policies, five nodes each; the judge is SciPy's Riccati solver. From the
# same flights Simpson's values are two thousand times as accurate as the trapezoid's, and Gauss' exact to rounding.

# %%
F = np.array([[-1.01887, 0.90506, -0.00215], [0.82225, -1.07741, -0.17555], [0.0, 0.0, -1.0]])
G = np.array([[0.0], [0.0], [1.0]])
unknown = integral.linear_quadratic(np.full((3, 3), np.nan), G, np.eye(3), np.eye(1))
starts = np.random.default_rng(0).normal(size=(12, 3))


def flight(gain, start, times):
    """States of the plant at some times under u = gain @ x."""
    closed, exact = F + G @ gain, dict(rtol=1e-12, atol=1e-14)
    return scipy.integrate.solve_ivp(lambda t, x: closed @ x, (0.0, DELTA), start, "DOP853", times, **exact).y.T


judge = np.sum(starts @ scipy.linalg.solve_continuous_are(F, G, np.eye(3), np.eye(1)) * starts, axis=1)
for name in ("trapezoid", "Simpson", "Gauss-Legendre"):
    nodes, rule_weights = RULES[name](5, 0.0, DELTA)
    w = jnp.zeros(6)
    for _ in range(6):
        gain = jax.jacobian(lambda x, w=w: integral.policy(unknown, integral.quadratic, w, x))(jnp.zeros(3))
        states = np.stack([flight(np.asarray(gain), start, np.unique([*nodes, DELTA])) for start in starts])
        data = (states[:, :5], rule_weights)
        found = integral.evaluate_samples(unknown, integral.quadratic, w, *data, starts=starts, ends=states[:, -1])
        w = check(found).weights
    off = np.abs(jax.vmap(integral.quadratic)(starts) @ w / judge - 1).max()
    print(f"{name:16s} largest relative error of the value {off:.0e}")
    assert off < {"trapezoid": 1e-3, "Simpson": 1e-6, "Gauss-Legendre": 1e-12}[name]

# %% [markdown]
# **Take away.**
#
# * You choose the sample times: Gauss-Legendre, three or four nodes.
# * Samples come equispaced: Simpson, an odd number of them. Clenshaw-Curtis if Chebyshev times are possible.
# * The integrand has kinks, or times are irregular: a rough Matern (1/2 or 3/2) on the nodes you have; it also gives an
#   error bar, `quadrature.variance`.
# * Whatever you take: no jitter unless the samples are noisy, and float64.
