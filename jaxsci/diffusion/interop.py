r"""From and to other libraries: scheduler configurations as tables, and tables for networks of any array library.

`from_diffusers` reads a ``scheduler_config.json`` as a plain dict and returns what is needed to sample as that
scheduler does: noise schedule, prediction kind, solver table, scale of the initial noise and the network's times.
`run_plain` is `diffusion.sample` in plain Python, for networks that are not written in JAX.

States are those of the schedule's own law, $x = \alpha x_0 + \sigma\varepsilon$; where the library keeps $x/\alpha$
(Euler, Heun, linear multistep) its states are ours divided by alpha.

References: `diffusers` names what each class is made from; the common form is in `tables`.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsci.core import entry
from jaxsci.diffusion import predictions
from jaxsci.diffusion.diffusers import Imported, Unsupported, denoiser, from_diffusers
from jaxsci.diffusion.schedules import NoiseSchedule
from jaxsci.diffusion.tables import SolverTable


def run_plain(
    denoiser: Callable[..., tuple[Any, Any]], table: SolverTable, x: Any, *, noise: Callable[[int], Any] | None = None,
    convert: Callable[[np.ndarray], Any] = lambda coefficients: coefficients,
) -> Any:  # fmt: skip
    """`diffusion.sample` as a Python loop over the rows, for arrays of any library that know + and *.

    Args:
        denoiser: ``denoiser(x, t, alpha, sigma) -> (D, eps)`` of the arrays' own library, the others floats;
            `plain_denoiser` makes it from a network.
        table: a host table.
        x: the state at node 0, batched or not; its dtype is kept.
        noise: ``noise(i)``: unit noise like `x` for row i, of a table that draws.
        convert: makes coefficients of the data's shape (`v3`) into the library's arrays, e.g. ``torch.as_tensor``.

    Returns:
        The state at the last node.

    Raises:
        ValueError: a table that draws noise, and none given.

    Example:
        >>> import numpy as np
        >>> from jaxsci.diffusion import grids, interop, schedules, solvers
        >>> vp = schedules.vp_linear()
        >>> def network(x, t):  # the exact noise prediction for data at 3
        ...     alpha, sigma = vp.alpha_sigma(vp.lam(t))
        ...     return (x - 3 * alpha) / sigma
        >>> denoiser = interop.plain_denoiser(network, vp, "epsilon")
        >>> print(interop.run_plain(denoiser, solvers.unipc(grids.logsnr(vp, 10)), np.zeros(2)).round(2))
        [3. 3.]
    """

    def combine(rows, i, *histories):
        terms = [
            (float(c) if np.ndim(c) == 0 else convert(c)) * value
            for coefficients, history in zip(rows[:3], histories)
            for c, value in zip(np.asarray(coefficients[i]), history)
            if np.any(c)
        ]
        total = sum(terms[1:], terms[0]) if terms else 0.0 * histories[0][0]
        return total if rows.shift is None else total + convert(np.asarray(rows.shift[i]))

    xs, datas, noises = [], [], []
    for i in range(table.num_rows):
        if table.active is not None and not table.active[i]:
            continue
        t, alpha, sigma = (float(column[i]) for column in (table.t, table.alpha, table.sigma))
        if table.evaluate is None or table.evaluate[i]:
            data, eps = denoiser(x, t, alpha, sigma)
        else:
            data = 0.0 * x + convert(np.asarray(table.analytic))
            eps = (x + -alpha * data) * (1 / sigma)
        datas, noises = [data, *datas], [eps, *noises]
        if table.corrected is not None and table.corrected[i]:
            x = combine(table.corrector, i, [x, *xs], datas, noises)
        xs = [x, *xs]
        x = combine(table.predictor, i, xs, datas, noises)
        if table.predictor.std is not None and table.predictor.std[i] != 0:
            if noise is None:
                raise ValueError("interop.run_plain: this table draws noise; pass noise(i), unit noise like x")
            x = x + float(table.predictor.std[i]) * noise(i)
    return x


def plain_denoiser(
    model: Callable[..., Any], schedule: NoiseSchedule | Imported, kind: str | None = None, *,
    sigma_data: float | None = None, batched: bool = False, convert: Callable[[np.ndarray], Any] = lambda array: array,
) -> Callable[..., tuple[Any, Any]]:  # fmt: skip
    """What `run_plain` takes, from a network of any array library; the table of kinds is in `predictions`.

    Args:
        model: ``model(x, t) -> output``; t is a float, ``schedule.model_time`` of the node.
        schedule: a host schedule; or the whole record of `from_diffusers`, whose kind, limits and standard deviation
            of the data are then used.
        kind: one of `predictions.KINDS`; None with a record.
        sigma_data: of kind "edm", .5 by default; None with a record.
        batched: x has a leading axis of samples, each of which a record's limits look at alone.
        convert: makes a NumPy array into one of the library, as for `run_plain`; for limits, which NumPy computes.

    Returns:
        ``(x, t, alpha, sigma) -> (D, eps)``.

    Raises:
        ValueError: an unknown kind, or a kind or sigma_data beside a record.

    Example:
        >>> import numpy as np
        >>> from jaxsci.diffusion import interop, schedules
        >>> denoise = interop.plain_denoiser(lambda x, t: 0 * x, schedules.vp_linear(), "sample")
        >>> print(denoise(np.ones(2), 0.5, 0.8, 0.6)[1].round(2))
        [1.67 1.67]
    """
    limit = None
    if isinstance(schedule, Imported):
        if kind is not None or sigma_data is not None:
            raise ValueError("interop.plain_denoiser: a record brings kind and sigma_data; leave them out")
        limit, kind, sigma_data = schedule.limit, schedule.kind, float(schedule.sigma_data)
        schedule = schedule.schedule
    if kind not in predictions.KINDS:
        raise ValueError(f"interop.plain_denoiser: kind must be one of {predictions.KINDS}, got {kind!r}")
    sigma_data = 0.5 if sigma_data is None else sigma_data

    def limited(data, eps, x, alpha, sigma):
        one = limit.args[-1]  # the hook, which looks at one sample
        found = np.asarray((jax.vmap(one) if batched else one)(jnp.asarray(np.asarray(data))))
        data = convert(found)
        return (data, (x + -alpha * data) * (1 / sigma)) if dict(limit.func.items)["again"] else (data, eps)

    def denoise(x, t, alpha, sigma):
        scale, time = 1.0, None
        if kind == "edm":
            ratio = sigma / alpha
            root = math.hypot(ratio, sigma_data)
            scale, time = 1 / (alpha * root), math.log(ratio) / 4
            skip, out = sigma_data**2 / (root**2 * alpha), ratio * sigma_data / root
            of_data, of_noise = (skip, out), ((1 - alpha * skip) / sigma, -alpha * out / sigma)
        else:
            time = float(schedule.model_time(t))
            of_data, of_noise = _LINEAR[kind](alpha, sigma)
        output = model(x if scale == 1.0 else scale * x, time)
        data, eps = of_data[0] * x + of_data[1] * output, of_noise[0] * x + of_noise[1] * output
        return (data, eps) if limit is None else limited(data, eps, x, alpha, sigma)

    return denoise


# Data and noise prediction as linear forms of the state and the network's output.
_LINEAR = {
    "epsilon": lambda a, s: ((1 / a, -s / a), (0.0, 1.0)),
    "sample": lambda a, s: ((0.0, 1.0), (1 / s, -a / s)),
    "v_prediction": lambda a, s: tuple((p / (a * a + s * s), q / (a * a + s * s)) for p, q in ((a, -s), (s, a))),
    "score": lambda a, s: ((1 / a, s * s / a), (0.0, -s)),
    "flow_prediction": lambda a, s: ((1 / (a + s), -s / (a + s)), (1 / (a + s), a / (a + s))),
}


__all__ = ["Imported", "Unsupported", "denoiser", "from_diffusers", "plain_denoiser", "run_plain"]

entry.guard(globals())
