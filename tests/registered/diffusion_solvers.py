"""Entries of jaxsci.diffusion.solvers, each against its formula written out."""

import numpy as np

from contracts import Bad, Builder, Driver
from jaxsci.diffusion import grids, solvers
from registered.diffusion import LAMS, VP, alpha_sigma


def _solver(build, truth):
    """The predictor's (x, data, noise, std) or what `truth` names, on given lam."""

    def run(lams):
        rows = build(grids.at_lams(VP, lams)).predictor
        return {name: getattr(rows, name) for name in truth(LAMS)}

    return Builder(lambda: (run, (LAMS,)), truth)


def _ddim_truth(eta):
    def truth(lams):
        alpha, sigma = alpha_sigma(lams[1:])
        std = eta * sigma * np.sqrt(1 - np.exp(-2 * np.diff(lams)))
        out = {"data": alpha[:, None], "noise": np.sqrt(sigma**2 - std**2)[:, None]}
        return out if eta == 0 else {**out, "std": std}

    return truth


def _midpoint_truth(lams):
    """DPM-Solver++(2M) with first order at both ends."""
    (alpha, sigma), h = alpha_sigma(lams), np.diff(lams)
    lift = 0.5 * h[1:] / h[:-1]
    lift[-1] = 0
    full = alpha[1:] * (1 - np.exp(-h))
    lift = np.concatenate([[0.0], lift])
    return {"x": (sigma[1:] / sigma[:-1])[:, None], "data": np.stack([full * (1 + lift), -full * lift], axis=1)}


def _sde_truth(lams):
    (alpha, sigma), h = alpha_sigma(lams), np.diff(lams)
    return {
        "x": (sigma[1:] / sigma[:-1] * np.exp(-h))[:, None],
        "data": (alpha[1:] * (1 - np.exp(-2 * h)))[:, None],
        "std": sigma[1:] * np.sqrt(1 - np.exp(-2 * h)),
    }


def _singlestep_truth(lams):
    """DPM-Solver-2 of one step: rows to the middle and to the end."""
    middle = (lams[0] + lams[1]) / 2
    (a, am, at), (_, sm, st) = alpha_sigma(np.asarray([lams[0], middle, lams[1]]))
    h = lams[1] - lams[0]
    x = np.asarray([[am / a, 0], [0, at / a]])
    noise = np.asarray([[-sm * np.expm1(h / 2), 0], [-st * np.expm1(h), 0]])
    return {"x": x, "data": np.zeros((2, 0)), "noise": noise, "shift": None, "std": None}


def _adams_truth(lams):
    """Two points in rho: the trapezoid of the extrapolated line."""
    (alpha, _), rho = alpha_sigma(lams), np.exp(-lams)
    step = np.diff(rho)
    lift = np.concatenate([[0.0], 0.5 * step[1:] / step[:-1]])
    return {"x": (alpha[1:] / alpha[:-1])[:, None], "noise": (alpha[1:] * step * np.stack([1 + lift, -lift])).T}


def _ipndm_truth(lams):
    _, sigma = alpha_sigma(lams)
    adams = np.asarray([[1, 0, 0, 0], [1.5, -0.5, 0, 0], np.asarray([23, -16, 5, 0]) / 12])
    adams = np.concatenate([adams, np.asarray([[55, -59, 37, -9]]) / 24])
    return {"noise": -(sigma[1:] * np.expm1(np.diff(lams)))[:, None] * adams}


def _heun_truth(lams):
    (alpha, _), rho = alpha_sigma(lams), np.exp(-lams)
    rows = []
    for i in range(len(lams) - 1):
        step = alpha[i + 1] * (rho[i + 1] - rho[i])
        rows += [[step, 0], [0.5 * step, 0.5 * step]]
    return {"noise": np.asarray(rows)}


def _midpoint_rk_truth(lams):
    alpha, rho = alpha_sigma(lams)[0], np.exp(-lams)
    rows = []
    for i in range(len(lams) - 1):
        middle = (rho[i] + rho[i + 1]) / 2
        rows += [1 / np.sqrt(1 + middle**2) * (middle - rho[i]), alpha[i + 1] * (rho[i + 1] - rho[i])]
    return {"noise": np.asarray(rows)[:, None]}


def _unic_one(lams):
    rows = solvers.unipc(grids.at_lams(VP, lams), order=1).corrector
    return rows.x, rows.data


def _unic_one_truth(lams):
    """B(h) = exp(-h) - 1, half of it on each value; row 0 has no corrector."""
    (alpha, sigma), h = alpha_sigma(lams[:-1]), np.diff(lams[:-1])
    half = alpha[1:] * (1 - np.exp(-h)) / 2
    x = np.stack([np.zeros(4), np.append(0, sigma[1:] / sigma[:-1])], axis=1)
    return x, np.repeat(np.append(0, half)[:, None], 2, axis=1)


def _works_orders(folder):
    assert solvers.dpm_orders(10, 3) == (3, 3, 3, 1) and solvers.dpm_orders(9, 3) == (3, 3, 2, 1)


R = "jaxsci.diffusion.solvers."
ENTRIES = {
    R + "ddim": _solver(lambda g: solvers.ddim(g, eta=0.5), _ddim_truth(0.5)),
    R + "dpm_multistep": _solver(solvers.dpm_multistep, _midpoint_truth),
    R + "sde_dpm": _solver(lambda g: solvers.sde_dpm(g, order=1), _sde_truth),
    R + "dpm_singlestep": Builder(
        lambda: (
            (lambda lams: solvers.dpm_singlestep(grids.at_lams(VP, lams)).predictor._asdict()),
            (LAMS[:2],),
        ),
        _singlestep_truth,
    ),
    R + "unipc": Builder(lambda: (_unic_one, (LAMS,)), _unic_one_truth),
    R + "deis": _solver(lambda g: solvers.deis(g, order=1, variable="rho"), _adams_truth),
    R + "ipndm": _solver(solvers.ipndm, _ipndm_truth),
    R + "heun": _solver(solvers.heun, _heun_truth),
    R + "runge_kutta": _solver(lambda g: solvers.runge_kutta(g, method="midpoint2"), _midpoint_rk_truth),
    R + "dpm_orders": Driver(
        bad=(Bad(lambda folder: solvers.dpm_orders(5, 4), ValueError, "order 1, 2 or 3"),), works=_works_orders
    ),
}
