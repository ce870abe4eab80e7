r"""Rows of the scheduler classes of the diffusers library that no single rule of `rules` gives: orders that differ from
row to row, stages that are nodes of the grid, steps of length zero, and noise added in other places.

Each function makes a ``rule(grid, i) -> Step`` for `tables.tabulate`; `SOLVERS` makes it from the settings of a class.

References: C. Lu et al. 2022 (DPM-Solver++), algorithms 1 and 2; W. Zhao et al. 2023, algorithm 2; J. Ho et al. 2020,
equations 6 and 7; K. Crowson, k-diffusion (linear multistep in sigma).
"""

import numpy as np

from jaxsci.diffusion import _exponential as expo
from jaxsci.diffusion import rules, solvers
from jaxsci.diffusion.tables import Row, Step

_STAY = Row({0: 1.0}, {}, {})


def multistep(orders, *, reverse=False, without_corrector=None, **options):
    r"""Order by row; a step between equal levels is the identity. `options` are those of `rules.multistep`.

    Args:
        orders: of each row.
        reverse: the reverse SDE with eps interpolated: twice the weights of the ODE, noise $\sigma_t\sqrt{e^{2h} - 1}$.
        without_corrector: rows whose arrival is not corrected by UniC of their order; None corrects nowhere.
    """

    def rule(grid, i):
        row, fix, h = _STAY, None, grid.lam[i + 1] - grid.lam[i]
        if grid.lam[i + 1] != grid.lam[i]:  # else the levels end by repeating the last one
            row = rules.multistep(orders[i], **options)(grid, i).predictor
            if reverse:
                std = grid.sigma[i + 1] * np.sqrt(np.expm1(2 * h))
                row = Row(row.x, {}, {k: 2 * w for k, w in row.noise.items()}, std=std)
        if without_corrector is not None and i > 0 and i - 1 not in without_corrector:
            fix = rules.multistep(orders[i - 1], corrector=True, **options)(grid, i).corrector
        return Step(row, fix)

    return rule


def singlestep(orders, *, kind, relaxation, tau=0.0):
    """Order 1, 2, 3 in turn from the same start, the nodes of the grid being the stages.

    With "bh2", rows of three points use the start and the newest value only; with "exact" all three.
    """

    stages = []
    for i, order in enumerate(orders):
        base = min(order, i + 1) - 1
        stencils = ((), ((0,),), ((0,),) if relaxation == "bh2" else ((0, 1), (0, 1)))[base]
        stages.append((base, kind, stencils, relaxation if base == 1 else "exact"))
    return rules._staged(stages, tau=tau)


def linear_multistep(points):
    """`rules.adams_bashforth` in rho, integrated to rho = 0 as well where the grid ends there."""

    def rule(grid, i):
        rho = np.exp(-grid.lam[max(i + 1 - points, 0) : i + 2])[::-1]
        nodes, weights = np.polynomial.legendre.leggauss(points)
        half = (rho[0] - rho[1]) / 2
        w = expo.lagrange_weights(list(rho[1:]), rho[1] + half * (nodes + 1), half * weights)
        alpha = grid.alpha[i + 1]
        return Step(Row({0: alpha / grid.alpha[i]}, {}, {k: alpha * w[k] for k in w}))

    return rule


def ancestral(large: bool, noise_at_end: bool):
    r"""$x_t = \frac{\sigma_t}{\sigma_s}e^{-h}x + \alpha_t(1 - e^{-2h})D + s\xi$: the posterior given D.

    s is the posterior's, or where it shall be large the forward step's, $s^2 = 1 - \alpha_s^2/\alpha_t^2$.
    """

    def rule(grid, i):
        row = rules._exponential_row(grid, i, 0, i + 1, "data", (), tau=1.0)
        if np.isinf(grid.lam[i + 1]):
            std = np.sqrt(1 - grid.alpha[i] ** 2) if large and noise_at_end else 0.0
            return Step(Row({}, {0: grid.alpha[i + 1]}, {}, std=std))
        std = np.sqrt(1 - (grid.alpha[i] / grid.alpha[i + 1]) ** 2) if large else row.std
        return Step(row._replace(std=std))

    return rule


def renoise(grid, i):
    """The data prediction with fresh noise of the next level."""
    return Step(Row({}, {0: grid.alpha[i + 1]}, {}, std=grid.sigma[i + 1]))


def _scales(rho):
    alpha = 1 / np.sqrt(1 + np.asarray(rho) ** 2)
    return alpha, np.sqrt(1 - alpha**2)


def strides(targets, eta):
    """DDIM towards levels of its own; the next node takes the state to stand where itself does."""

    def rule(grid, i):
        (alpha, sigma), std = _scales(targets[i]), 0.0
        if eta > 0 and sigma > 0:
            h = np.log(sigma * grid.alpha[i] / (alpha * grid.sigma[i])) if grid.alpha[i] > 0 else -np.inf
            std = eta * sigma * np.sqrt(-np.expm1(2 * h))
        return Step(Row({}, {0: alpha}, {0: np.sqrt(sigma**2 - std**2)}, std=std if eta > 0 else None))

    return rule


_ADAMS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def pseudo(sources, targets, kind):
    r"""PNDM without Runge-Kutta steps: DDIM with an Adams-Bashforth mean of up to four outputs.

    Row 1 repeats the first step from its start with the mean of both outputs, and is forgotten.
    """

    def rule(grid, i):
        alpha, sigma = _scales(sources[i])
        alpha_t, sigma_t = _scales(targets[i])
        outputs = [k for k in range(i + 1) if i - k != 1]  # slots of what is remembered
        weights = _ADAMS[min(len(outputs), 4) - 1]
        used, base = dict(zip(outputs, weights)), 0
        if i == 1:
            used, base = {0: 0.5, 1: 0.5}, 1
        ratio, c = alpha_t / alpha, sigma_t - sigma * alpha_t / alpha
        if kind == "epsilon":
            return Step(Row({base: ratio}, {}, {k: c * w for k, w in used.items()}))
        at = {k: (grid.alpha[i - k], grid.sigma[i - k]) for k in used}  # v = alpha eps - sigma D there
        data = {k: -c * alpha * w * at[k][1] for k, w in used.items()}
        noise = {k: c * alpha * w * at[k][0] for k, w in used.items()}
        return Step(Row({base: ratio + c * sigma}, data, noise))

    return rule


def consistency(steps, scaling):
    r"""LCM: jump to $c_s x + c_o D$, which is x itself at time 0, and add fresh noise of the next level."""
    scaled = np.asarray(steps) * scaling
    skip, out = 0.25 / (scaled**2 + 0.25), scaled / np.sqrt(scaled**2 + 0.25)

    def rule(grid, i):
        last = i == len(steps) - 1
        alpha, std = (1.0, 0.0) if last else (grid.alpha[i + 1], grid.sigma[i + 1])
        return Step(Row({0: alpha * skip[i]}, {0: alpha * out[i]}, {}, std=std if len(steps) > 1 else None))

    return rule


# --- from the settings of a class ---------------------------------------------------------------------------

# Options of `multistep` by algorithm_type and by solver_type.
_ALGORITHMS = {
    "dpmsolver++": {"kind": "data"}, "dpmsolver": {"kind": "noise"}, "sde-dpmsolver++": {"kind": "data", "tau": 1.0},
    "sde-dpmsolver": {"kind": "noise", "reverse": True}, "deis": {"kind": "noise", "half_second": False},
}  # fmt: skip
_RELAXATIONS = {"midpoint": "bh2", "heun": "exact", "logrho": "exact", "bh1": "bh1", "bh2": "bh2"}


def _multistep(o):
    """Full order to the end when there are 15 rows or more; only a last node without noise lowers it then."""
    few = o["lower_order_final"] and o["num_rows"] < 15
    orders = [o["solver_order"]] * o["num_rows"]
    if few:
        orders[-2:] = [min(order, 2) for order in orders[-2:]]
    if few or o["euler_at_final"] or o["final_sigmas_type"] == "zero":
        orders[-1] = 1
    options = {"half_second": o["weights"] == "published"} | _ALGORITHMS[o["algorithm_type"]]
    return multistep(orders[o["begin"] :], relaxation=_RELAXATIONS[o["solver_type"]], **options)


def _singlestep(o):
    order, num, zero = o["solver_order"], o["num_rows"], o["final_sigmas_type"] == "zero"
    orders = ([1, 2, 3][:order] * num)[:num]
    if o["lower_order_final"] or zero or num % order:  # the library switches it on, with a warning
        # The last step is short, and the one before it as well if nothing is left over.
        orders[-1] = 2 if order == 3 and num % 3 == 2 else 1
    if zero:
        orders[-1] = 1
    options = _ALGORITHMS[o["algorithm_type"]]
    return singlestep(orders[o["begin"] :], relaxation=_RELAXATIONS[o["solver_type"]], **options)


def _unipc(o):
    order, num = o["solver_order"], o["num_rows"]
    orders = [min(order, num - i) if o["lower_order_final"] else order for i in range(num)]
    return multistep(
        orders[o["begin"] :], without_corrector=tuple(i - o["begin"] for i in o["disable_corrector"]),
        kind="data" if o["predict_x0"] else "noise", relaxation=_RELAXATIONS[o["solver_type"]],
    )  # fmt: skip


def _ddim(o):
    if o["stochastic_sampling"]:
        return renoise
    if o["targets"] is not None and np.any(o["targets"][:-1] != o["values"][1:-1]):
        return strides(o["targets"][o["begin"] :], o["eta"])
    return rules.ddim(o["eta"])


SOLVERS = {
    "multistep": _multistep,
    "singlestep": _singlestep,
    "unipc": _unipc,
    "ddim": _ddim,
    "pseudo": lambda o: pseudo(o["sources"][o["begin"] :], o["targets"][o["begin"] :], o["prediction_type"]),
    "consistency": lambda o: consistency(o["steps"][o["begin"] :], o["timestep_scaling"]),
    "posterior": lambda o: ancestral(o["variance_type"] == "fixed_large", o["noise_at_end"]),
    "linear multistep": lambda o: linear_multistep(4),
    "heun": lambda o: solvers.heun,
    "two-stage": lambda o: solvers.dpm_singlestep,
}
"""The row rule for the settings of a class; for those with stages, the builder of `solvers` that inserts them."""

STAGED = (solvers.heun, solvers.dpm_singlestep)
