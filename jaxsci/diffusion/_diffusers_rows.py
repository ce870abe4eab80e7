r"""Rows of the scheduler classes of the diffusers library that no single rule of `rules` gives: orders that differ from
row to row, stages that are nodes of the grid, steps of length zero, and noise added in other places.

Each function returns ``rule(grid, i) -> Step`` for `tables.tabulate`.

References: C. Lu et al. 2022 (DPM-Solver++), algorithms 1 and 2; W. Zhao et al. 2023, algorithm 2; J. Ho et al. 2020,
equations 6 and 7; K. Crowson, k-diffusion (linear multistep in sigma).
"""

from typing import NamedTuple

import numpy as np

from jaxsci.diffusion import _exponential as expo
from jaxsci.diffusion import rules, solvers
from jaxsci.diffusion._diffusers import one_of, refuse
from jaxsci.diffusion.tables import Row, Step

_STAY = Row({0: 1.0}, {}, {})


def _stands_still(grid, i):
    """Levels that end by repeating the last one: the step is the identity, the model call is made all the same."""
    return grid.lam[i + 1] == grid.lam[i]


def multistep(orders, **options):
    """Order by row; options as in `rules.multistep`."""

    def rule(grid, i):
        return Step(_STAY) if _stands_still(grid, i) else rules.multistep(orders[i], **options)(grid, i)

    return rule


def unipc(orders, without_corrector=(), **options):
    """UniP of `orders[i]`, corrected in the next row by UniC of the order that the predictor had."""

    def rule(grid, i):
        predictor = _STAY if _stands_still(grid, i) else rules.multistep(orders[i], **options)(grid, i).predictor
        if i == 0 or i - 1 in without_corrector:
            return Step(predictor)
        return Step(predictor, rules.multistep(orders[i - 1], corrector=True, **options)(grid, i).corrector)

    return rule


def reverse_noise(orders, relaxation):
    r"""The reverse SDE with eps interpolated: twice the weights of the ODE, noise $\sigma_t\sqrt{e^{2h} - 1}$."""

    def rule(grid, i):
        if _stands_still(grid, i):
            return Step(_STAY)
        row = rules.multistep(orders[i], kind="noise", relaxation=relaxation)(grid, i).predictor
        std = grid.sigma[i + 1] * np.sqrt(np.expm1(2 * (grid.lam[i + 1] - grid.lam[i])))
        return Step(Row(row.x, {}, {k: 2 * w for k, w in row.noise.items()}, std=std))

    return rule


def singlestep(orders, kind, relaxation, tau=0.0):
    """Order 1, 2, 3 in turn from the same start, the nodes of the grid being the stages.

    With "bh2", rows of three points use the start and the newest value only; with "exact" all three.
    """

    def rule(grid, i):
        if np.isinf(grid.lam[i + 1]):
            return Step(Row({}, {0: grid.alpha[i + 1]}, {}))
        base, c = min(orders[i], i + 1) - 1, 1 + tau**2
        h, mu = grid.lam[i + 1] - grid.lam[i - base], 1.0 if kind == "noise" else -c
        stencils, factors = (), None
        if base == 1:
            stencils, factors = ((0,),), [expo.relaxation(relaxation, h, mu)]
        elif base == 2:
            stencils = ((0,),) if relaxation == "bh2" else ((0, 1), (0, 1))
        return Step(rules.exponential_row(grid, i, base, i + 1, kind, stencils, factors=factors, tau=tau))

    return rule


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
        row = rules.exponential_row(grid, i, 0, i + 1, "data", (), tau=1.0)
        if np.isinf(grid.lam[i + 1]):
            std = np.sqrt(1 - grid.alpha[i] ** 2) if large and noise_at_end else 0.0
            return Step(Row({}, {0: grid.alpha[i + 1]}, {}, std=std))
        std = np.sqrt(1 - (grid.alpha[i] / grid.alpha[i + 1]) ** 2) if large else row.std
        return Step(row._replace(std=std))

    return rule


def renoise(grid, i):
    """The data prediction with fresh noise of the next level."""
    return Step(Row({}, {0: grid.alpha[i + 1]}, {}, std=grid.sigma[i + 1]))


# --- what the classes do ------------------------------------------------------------------------------------

_ALL, _VP = ("epsilon", "sample", "v_prediction", "flow_prediction"), ("epsilon", "sample", "v_prediction")


class Wanted(NamedTuple):
    """What a class is asked to do beyond its options: rows before `begin` are left out."""

    num_rows: int
    begin: int
    weights: str
    eta: float
    noise_at_end: bool


def _kind(o, allowed):
    kind = one_of(o, "prediction_type", allowed)
    flow = o.get("use_flow_sigmas", False)
    if flow and kind == "v_prediction":
        raise refuse("prediction_type='v_prediction'", "with use_flow_sigmas=True it belongs to no law")
    if kind == "flow_prediction" and not flow:
        raise refuse("prediction_type='flow_prediction'", "it needs use_flow_sigmas=True")
    return "sample" if kind == "original_sample" else kind


def _edm_kind(o):
    if o["prediction_type"] == "v_prediction":
        raise refuse("prediction_type='v_prediction'", "let the network return minus its output and use 'epsilon'")
    one_of(o, "prediction_type", ("epsilon",))
    return "edm"


def _order(o, most):
    order = o["solver_order"]
    if order not in range(1, most + 1):
        raise refuse(f"solver_order={order!r}", f"it must be an integer from 1 to {most}")
    return order


def _relaxation(o):
    return {"midpoint": "bh2", "heun": "exact"}[one_of(o, "solver_type", ("midpoint", "heun"))]


def _fixed_variance(o):
    if o.get("variance_type") is not None:
        raise refuse(f"variance_type={o['variance_type']!r}", "let the network return the mean only and drop it")


def _falling(o, wanted):
    """Full order to the end when there are 15 rows or more; only a last node without noise lowers it then."""
    few = o["lower_order_final"] and wanted.num_rows < 15
    orders = [_order(o, 3)] * wanted.num_rows
    if few:
        orders[-2:] = [min(order, 2) for order in orders[-2:]]
    if few or o.get("euler_at_final") or o.get("final_sigmas_type") == "zero":
        orders[-1] = 1
    return orders[wanted.begin :]


def _dpm_rule(o, wanted):
    algorithm = one_of(o, "algorithm_type", ("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver"))
    relaxation, orders, published = _relaxation(o), _falling(o, wanted), wanted.weights == "published"
    if not algorithm.endswith("++") and o["final_sigmas_type"] == "zero":
        raise refuse("final_sigmas_type='zero'", f"algorithm_type={algorithm!r} divides by zero there; use 'sigma_min'")
    if o["solver_order"] == 3 and algorithm == "sde-dpmsolver":
        raise refuse("solver_order=3", f"algorithm_type={algorithm!r} has orders 1 and 2")
    if o["solver_order"] == 3 and algorithm == "sde-dpmsolver++" and published:
        raise refuse("solver_order=3", f"{algorithm!r} has a wrong sign there in the library; pass weights='exact'")
    if algorithm == "sde-dpmsolver":
        return reverse_noise(orders, relaxation)
    if algorithm == "sde-dpmsolver++":
        return multistep(orders, relaxation=relaxation, tau=1.0)
    kind = "data" if algorithm == "dpmsolver++" else "noise"
    return multistep(orders, kind=kind, relaxation=relaxation, half_second=published)


def _dpm_multistep(o, wanted):
    _fixed_variance(o)
    return _kind(o, _ALL if str(o["algorithm_type"]).endswith("++") else _VP), _dpm_rule(o, wanted)


def _dpm_singlestep(o, wanted):
    _fixed_variance(o)
    algorithm = one_of(o, "algorithm_type", ("dpmsolver++", "dpmsolver", "sde-dpmsolver++"))
    order, relaxation, num = _order(o, 3), _relaxation(o), wanted.num_rows
    zero, stochastic = o["final_sigmas_type"] == "zero", algorithm.startswith("sde")
    final = o["lower_order_final"] or zero or num % order  # the library switches it on, with a warning
    if zero and algorithm == "dpmsolver":
        raise refuse("final_sigmas_type='zero'", "algorithm_type='dpmsolver' divides by zero there; use 'sigma_min'")
    if order == 3 and stochastic and relaxation == "exact" and wanted.weights == "published":
        raise refuse("solver_order=3", f"{algorithm!r} has a wrong sign there in the library; pass weights='exact'")
    orders = ([1, 2, 3][:order] * num)[:num]
    if final:  # the last step is short, and the one before it as well if nothing is left over
        orders[-1] = 2 if order == 3 and num % 3 == 2 else 1
    if zero:
        orders[-1] = 1
    kind = "noise" if algorithm == "dpmsolver" else "data"
    rule = singlestep(orders[wanted.begin :], kind, relaxation, 1.0 if stochastic else 0.0)
    return _kind(o, _ALL if kind == "data" else _VP), rule


def _unipc(o, wanted):
    order, kind, num = _order(o, 4), "data" if o["predict_x0"] else "noise", wanted.num_rows
    if o["solver_p"] is not None:
        raise refuse("solver_p", "another scheduler as predictor")
    if kind == "noise" and o["final_sigmas_type"] == "zero":
        raise refuse("final_sigmas_type='zero'", "predict_x0=False divides by zero there; use 'sigma_min'")
    if kind == "noise" and o["thresholding"]:
        raise refuse("thresholding=True", "it has no effect with predict_x0=False")
    orders = [min(order, num - i) if o["lower_order_final"] else order for i in range(num)]
    without = tuple(i - wanted.begin for i in o["disable_corrector"])
    rule = unipc(orders[wanted.begin :], without, kind=kind, relaxation=one_of(o, "solver_type", ("bh1", "bh2")))
    return _kind(o, _ALL if kind == "data" else _VP), rule


def _deis(o, wanted):
    one_of(o, "algorithm_type", ("deis",))
    one_of(o, "solver_type", ("logrho",))
    return _kind(o, _ALL), multistep(_falling(o, wanted), kind="noise")


def _ddpm(o, wanted):
    variance = one_of(o, "variance_type", ("fixed_small", "fixed_small_log", "fixed_large"))
    return _kind(o, _VP), ancestral(variance == "fixed_large", wanted.noise_at_end)


def _edm_dpm(o, wanted):
    one_of(o, "algorithm_type", ("dpmsolver++", "sde-dpmsolver++"))
    return _edm_kind(o), _dpm_rule(o, wanted)


def _flow_euler(o, wanted):
    return "flow_prediction", renoise if o["stochastic_sampling"] else rules.ddim()


CLASSES = {
    "DPMSolverMultistepScheduler": _dpm_multistep,
    "DPMSolverSinglestepScheduler": _dpm_singlestep,
    "UniPCMultistepScheduler": _unipc,
    "DEISMultistepScheduler": _deis,
    "EulerDiscreteScheduler": lambda o, wanted: (_kind(o, (*_VP, "original_sample")), rules.ddim()),
    "EulerAncestralDiscreteScheduler": lambda o, wanted: (_kind(o, ("epsilon", "v_prediction")), rules.ddim(1.0)),
    "HeunDiscreteScheduler": lambda o, wanted: (_kind(o, _VP), solvers.heun),
    "KDPM2DiscreteScheduler": lambda o, wanted: (_kind(o, ("epsilon", "v_prediction")), solvers.dpm_singlestep),
    "LMSDiscreteScheduler": lambda o, wanted: (_kind(o, _VP), linear_multistep(4)),
    "DDIMScheduler": lambda o, wanted: (_kind(o, _VP), rules.ddim(wanted.eta)),
    "DDPMScheduler": _ddpm,
    "FlowMatchEulerDiscreteScheduler": _flow_euler,
    "EDMDPMSolverMultistepScheduler": _edm_dpm,
    "EDMEulerScheduler": lambda o, wanted: (_edm_kind(o), rules.ddim()),
}
"""Prediction kind and row rule of every class; for those with stages, the solver that inserts them."""
