r"""Solvers under their usual names: builders that put a rule on a grid, in float64 on the host.

=====================  ==================================================================================
``ddim``               first order (Euler in sigma/alpha, flow-matching Euler), with noise (eta) if wished
``dpm_multistep``      DPM-Solver and DPM-Solver++ 2M, 3M (with ``half_second`` as published)
``sde_dpm``            SDE-DPM-Solver++ 1 to 3
``dpm_singlestep``     DPM-Solver and DPM-Solver++ of order 2 and 3, one step at a time
``unipc``              UniP with the UniC corrector
``deis``               exponential Adams-Bashforth in t, rho or lam
``ipndm``              pseudo linear multistep
``heun``, ``runge_kutta``  explicit Runge-Kutta in sigma/alpha
``dpm_v3``             DPM-Solver-v3, from `v3`; a free decision for every row is ``unified.solver``
=====================  ==================================================================================

The table is data: `diffusion.sample` runs any of them with the same program, and `tables.stack` makes an axis of them.
`names.named` finds them by the names that users of image generators know.
References: see `rules`.
"""

import numpy as np

from jaxsci.core import entry
from jaxsci.core.host import to_host
from jaxsci.core.types import Scalar, concrete
from jaxsci.diffusion import grids, rules
from jaxsci.diffusion.grids import TimeGrid
from jaxsci.diffusion.tables import SolverTable, tabulate
from jaxsci.diffusion.v3 import dpm_v3

_INGRAPH = "use tables.tabulate(rules.…, grid) inside compiled code"

# Explicit Runge-Kutta tableaux (c, rows of a, b) that `runge_kutta` knows.
_BUTCHER = {
    "euler": ((0.0,), (), (1.0,)),
    "heun2": ((0.0, 1.0), ((1.0,),), (0.5, 0.5)),
    "midpoint2": ((0.0, 0.5), ((0.5,),), (0.0, 1.0)),
    "kutta3": ((0.0, 0.5, 1.0), ((0.5,), (-1.0, 2.0)), (1 / 6, 2 / 3, 1 / 6)),
    "ralston3": ((0.0, 0.5, 0.75), ((0.5,), (0.0, 0.75)), (2 / 9, 1 / 3, 4 / 9)),
    "heun3": ((0.0, 1 / 3, 2 / 3), ((1 / 3,), (0.0, 2 / 3)), (0.25, 0.0, 0.75)),
    "vdhouwen3": ((0.0, 8 / 15, 2 / 3), ((8 / 15,), (0.25, 5 / 12)), (0.25, 0.0, 0.75)),
    "ssprk3": ((0.0, 1.0, 0.5), ((1.0,), (0.25, 0.25)), (1 / 6, 1 / 6, 2 / 3)),
    "rk4": ((0.0, 0.5, 0.5, 1.0), ((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}


def _host_grid(name, grid):
    concrete(grid, f"solvers.{name}", "grid", _INGRAPH)
    return to_host(grid)


def ddim(grid: TimeGrid, *, eta: Scalar = 0.0) -> SolverTable:
    """DDIM; eta = 0 is deterministic and first order, 1 ancestral sampling. See `rules.ddim`.

    Raises:
        TypeError: a traced grid.
        ValueError: eta outside [0, 1].

    Example:
        >>> from jaxsci.diffusion import grids, schedules, solvers
        >>> print(solvers.ddim(grids.logsnr(schedules.vp_linear(), 4)).predictor.data.round(2)[-1])
        [1.]

    References: J. Song et al. 2021, equation 12.
    """
    concrete((grid, eta), "solvers.ddim", "grid and eta", _INGRAPH)
    return tabulate(rules.ddim(float(eta)), to_host(grid))


def dpm_multistep(
    grid: TimeGrid, *, order: int = 2, relaxation: str = "bh2", lower_order_final: bool = True, **options
) -> SolverTable:
    """DPM-Solver++ (kind "data") or DPM-Solver ("noise"), multistep: `rules.multistep` with its usual options.

    Args:
        grid: where to stand.
        order: 1 to 4.
        relaxation: of two-point rows: "bh2" is the midpoint form, "exact" the Heun-like one.
        lower_order_final: fall to first order at the end: steady on very unequal steps, and of order 2 in the limit
            whatever `order` is. False keeps the order, on grids that end with noise.
        **options: others of `rules.multistep`. All published codes have ``half_second=True``: their rows of three
            points are of order 2; for parity only.

    Raises:
        TypeError: a traced grid.
        ValueError: see `rules.multistep`.

    Example:
        >>> from jaxsci.diffusion import grids, schedules, solvers
        >>> print(solvers.dpm_multistep(grids.logsnr(schedules.vp_linear(), 4)).predictor.data.round(2)[-1])
        [0.91 0.  ]

    References: Lu et al. 2022 (DPM-Solver++), algorithm 2 and appendix.
    """
    rule = rules.multistep(order, relaxation=relaxation, lower_order_final=lower_order_final, **options)
    return tabulate(rule, _host_grid("dpm_multistep", grid))


def sde_dpm(grid: TimeGrid, *, tau: float = 1.0, **options) -> SolverTable:
    """SDE-DPM-Solver++: exponential integrator of the reverse SDE with noise strength tau (0 is the ODE).

    Args:
        grid, **options: as in `dpm_multistep`.
        tau: noise strength.

    Raises:
        ValueError: tau negative; see `rules.multistep`.

    Example:
        >>> from jaxsci.diffusion import grids, schedules, solvers
        >>> print(bool((solvers.sde_dpm(grids.logsnr(schedules.vp_linear(), 3)).predictor.std > 0).any()))
        True

    References: Lu et al. 2022 (DPM-Solver++), section 5.2 and appendix.
    """
    return dpm_multistep(grid, tau=tau, **options)


def unipc(grid: TimeGrid, *, order: int = 3, corrector: bool = True, **options) -> SolverTable:
    """UniPC: UniP predictor with the UniC corrector, which raises the order of every row by one at no further call.

    The order of the whole run is that of its rows only without ``lower_order_final``, and above 3 only from the short
    first steps of `grids.started`; see `rules.multistep`, and ``benchmarks.diffusion_orders`` for measured orders.

    The variants bh1 and bh2 (`relaxation`) differ in UniP-2 and UniC-1 alone; B(h) cancels elsewhere.

    Args:
        grid: where to stand.
        order: p, 1 to 4, of the predictor.
        corrector: use UniC at every node but the last.
        **options: as in `dpm_multistep`; the kind "data" is for guidance.

    Raises:
        TypeError: a traced grid.
        ValueError: see `rules.multistep`.

    Example:
        >>> from jaxsci.diffusion import grids, schedules, solvers
        >>> table = solvers.unipc(grids.logsnr(schedules.vp_linear(), 5), order=2)
        >>> print(table.predictor.data.round(3)[1])
        [ 0.372 -0.124]

    References: Zhao et al. 2023, algorithms 1 and 2.
    """
    return dpm_multistep(grid, order=order, corrector=corrector, **options)


def deis(grid: TimeGrid, *, order: int = 3, variable: str = "t") -> SolverTable:
    """DEIS Adams-Bashforth: a polynomial of degree `order` (order + 1 points) in "t", "rho" or "lam".

    "lam" is what a widely used library calls DEIS; "rho" is the linear multistep method in sigma.

    Raises:
        ValueError: order outside 0 to 3 or an unknown variable.

    Example:
        >>> from jaxsci.diffusion import grids, schedules, solvers
        >>> print(solvers.deis(grids.time(schedules.vp_linear(), 4), order=2).predictor.noise.round(2)[-1])
        [-1.75  1.16 -0.36]

    References: Zhang and Chen 2023, section 3.3 (tAB, rhoAB).
    """
    if order not in (0, 1, 2, 3):
        raise ValueError(f"solvers.deis: order must be 0, 1, 2 or 3, got {order}")
    return tabulate(rules.adams_bashforth(order + 1, variable=variable), _host_grid("deis", grid))


def ipndm(grid: TimeGrid, *, order: int = 4) -> SolverTable:
    """iPNDM; see `rules.ipndm`.

    Example:
        >>> from jaxsci.diffusion import grids, schedules, solvers
        >>> print(solvers.ipndm(grids.time(schedules.vp_linear(), 4)).predictor.noise.round(2)[-1])
        [-2.17  2.33 -1.46  0.36]
    """
    return tabulate(rules.ipndm(order), _host_grid("ipndm", grid))


# --- solvers that insert nodes ------------------------------------------------------------------------------


def _insert(grid, fractions, variable):
    """The grid with stages inside every step, at the given fractions of it in lam or rho, without its two ends."""
    lams = []
    for s, t, inside in zip(grid.lam.tolist(), grid.lam[1:].tolist(), fractions):
        lams.append(s)
        for c in inside:
            if variable == "lam":
                lams.append(s + c * (t - s))
            else:
                lams.append(-np.log(np.exp(-s) + c * (np.exp(-t) - np.exp(-s))))
    return grids.at_lams(grid.schedule, np.append(lams, grid.lam[-1]))


def dpm_orders(num_calls: int, order: int) -> tuple[int, ...]:
    """Orders of the steps that spend exactly `num_calls` model calls, mostly of the given order.

    Raises:
        ValueError: order outside 1 to 3 or no calls.

    Example:
        >>> from jaxsci.diffusion import solvers
        >>> print(solvers.dpm_orders(7, 3))
        (3, 3, 1)

    References: Lu et al. 2022 (DPM-Solver), appendix: fast sampling within a budget of calls.
    """
    if order not in (1, 2, 3) or num_calls < 1:
        raise ValueError(f"solvers.dpm_orders: needs order 1, 2 or 3 and num_calls >= 1, got {order} and {num_calls}")
    full, rest = divmod(num_calls, order)
    if order == 3 and rest == 0:
        return (3,) * (full - 1) + (2, 1)
    return (order,) * full + ((rest,) if rest else ())


def dpm_singlestep(
    grid: TimeGrid,
    *,
    order: int = 2,
    orders: tuple[int, ...] | None = None,
    kind: str = "noise",
    solver: str = "dpmsolver",
    r1: float | None = None,
    r2: float = 2 / 3,
) -> SolverTable:
    r"""DPM-Solver-2 and -3: intermediate evaluations inside each step, at $\lambda_s + r_1 h$ and $\lambda_s + r_2 h$.

    Args:
        grid: ends of the steps.
        order: 1, 2 or 3 for every step: 1, 2 or 3 calls a step.
        orders: one per step instead; `dpm_orders` makes it from a budget of calls.
        kind: "noise" (DPM-Solver) or "data" (DPM-Solver++).
        solver: "dpmsolver", or "taylor": the exact weights of the interpolating polynomial at every order.
        r1: 1/2 for order 2 and 1/3 for order 3 by default.
        r2: of order 3.

    Raises:
        TypeError: a traced grid.
        ValueError: an unknown name, or orders that do not fit the grid.

    Example:
        >>> from jaxsci.diffusion import grids, schedules, solvers
        >>> print(solvers.dpm_singlestep(grids.logsnr(schedules.vp_linear(), 3), order=2).t.shape)
        (7,)

    References: Lu et al. 2022 (DPM-Solver), algorithms 4 and 5.
    """
    grid = _host_grid("dpm_singlestep", grid)
    num_steps = len(grid.lam) - 1
    orders = (order,) * num_steps if orders is None else tuple(orders)
    if len(orders) != num_steps or not set(orders) <= {1, 2, 3}:
        raise ValueError(f"solvers.dpm_singlestep: needs {num_steps} orders of 1, 2 or 3, got {orders}")
    if kind not in ("data", "noise") or solver not in ("dpmsolver", "taylor"):
        raise ValueError(
            "solvers.dpm_singlestep: kind must be 'data' or 'noise' and solver 'dpmsolver' or 'taylor', "
            f"got {kind!r} and {solver!r}"
        )
    orders = [1 if np.isinf(grid.lam[n : n + 2]).any() else o for n, o in enumerate(orders)]
    fractions = {1: (), 2: (0.5 if r1 is None else r1,), 3: (1 / 3 if r1 is None else r1, r2)}
    published, middle = solver == "dpmsolver", (1, kind, ((0,),))
    stages = {
        1: [(0, kind, ())],
        2: [(0, kind, ()), (*middle, "bh2" if published else "exact")],
        3: [(0, kind, ()), middle, (2, kind, ((0,),) if published else ((0, 1), (0, 1)))],
    }
    full = _insert(grid, [fractions[o] for o in orders], "lam")
    return tabulate(rules._staged([stage for o in orders for stage in stages[o]]), full)


def runge_kutta(grid: TimeGrid, *, method: str = "heun2") -> SolverTable:
    r"""An explicit Runge-Kutta method in $\rho = \sigma/\alpha$ ("rhoRK"): one call a stage.

    A last interval to a node without noise is one Euler step, so Heun there needs 2N - 1 calls.

    Raises:
        TypeError: a traced grid.
        ValueError: an unknown method, or a first node of pure noise (rho is infinite there).

    Example:
        >>> from jaxsci.diffusion import grids, schedules, solvers
        >>> print(solvers.runge_kutta(grids.logsnr(schedules.vp_linear(), 3)).t.shape)
        (7,)

    References: Zhang and Chen 2023, section 3.4 (rhoRK); Karras et al. 2022, algorithm 1 (Heun).
    """
    grid = _host_grid("runge_kutta", grid)
    if method not in _BUTCHER:
        raise ValueError(f"solvers.runge_kutta: method must be one of {sorted(_BUTCHER)}, got {method!r}")
    if np.isneginf(grid.lam[0]):
        raise ValueError("solvers.runge_kutta: sigma/alpha is infinite at the first node; start at a little signal")
    c, a, b = _BUTCHER[method]
    num_steps = len(grid.lam) - 1
    methods = [(c[1:], (*a, b))] * num_steps
    if np.isinf(grid.lam[-1]):
        methods[-1] = ((), ((1.0,),))
    stages = [
        (j, tuple((j - l, w) for l, w in enumerate(row) if w), len(rows))
        for _, rows in methods
        for j, row in enumerate(rows)
    ]
    return tabulate(rules._runge_kutta(tuple(stages)), _insert(grid, [inside for inside, _ in methods], "rho"))


def heun(grid: TimeGrid) -> SolverTable:
    """Heun's method in sigma/alpha, the solver of EDM: 2N - 1 calls when the grid ends without noise.

    Example:
        >>> from jaxsci.diffusion import grids, schedules, solvers
        >>> grid = grids.with_zero(grids.karras(schedules.ve(), 3))
        >>> print(solvers.heun(grid).t.shape)
        (8,)
    """
    return runge_kutta(grid, method="heun2")


__all__ = [
    "ddim",
    "deis",
    "dpm_multistep",
    "dpm_orders",
    "dpm_singlestep",
    "dpm_v3",
    "heun",
    "ipndm",
    "runge_kutta",
    "sde_dpm",
    "unipc",
]

entry.guard(globals())
