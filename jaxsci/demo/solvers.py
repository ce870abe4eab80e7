"""Scene "solvers": bandits tune thousands of linear solves, from a heat equation and from a photograph.

Stages, each measured and printed: the photograph diffused (a picture at once), what every fixed parameter costs, the
study itself (`_study.py`) through the sweep engine, the same work one by one, and a sweep killed and resumed.
"""

import json
import pathlib
import shutil
import statistics
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxsci import bandits, linear, plot
from jaxsci.core.extras import require
from jaxsci.core.provenance import device_description, versions
from jaxsci.core.static import bind
from jaxsci.demo import _shared, page, photographs, resume

_WIDTH = 14.0
_STEPS = 30  # of every photograph, as in the study
_CONTEXTS = {
    "random shift": "the shift c",
    "heat equation": "conductivity κ(t)",
    "photograph": "log₁₀(1 + 4τḡ)",
}


def scene(folder: pathlib.Path, fast: bool) -> None:
    """Run the scene into `folder`.

    Args:
        folder: made if it is not there; what a former run finished in it is kept and used.
        fast: small sizes.
    """
    began = time.perf_counter()
    require("matplotlib", "demo", "the demo")
    require("xarray", "demo", "the demo")
    from jaxsci.demo import _study as study

    _shared.writable(folder)
    rounds, seeds = (60, 2) if fast else (study.ROUNDS, 2)
    study.ROUNDS = rounds
    device = device_description()
    print(
        f"jaxsci {versions()['jaxsci']} · jax {jax.__version__} · {jax.device_count()} x {device['kind']}", flush=True
    )
    report = page.Page("Bandits that tune linear solvers", _summary(rounds, seeds, study), _shared.environment(device))

    _photograph(folder, report, study, fast)
    _say(f"first picture after {time.perf_counter() - began:.0f} s: {folder / 'photograph.png'}")
    references = _references(report, folder, study, rounds)

    started = time.perf_counter()
    ds = study.study(seeds, out=folder / "sweep")
    seconds = time.perf_counter() - started
    ds = ds.rename(key="seed")
    timing = json.loads(ds.attrs["provenance"])
    _totals(report, ds, references, timing, seconds)
    _figures(report, folder, ds, references)
    _one_by_one(report, study, 20 if fast else 200)
    report.line(resume.demonstrate(folder / "resume"))

    shutil.copyfile(folder / "sweep" / "results.nc", folder / "results.nc")
    shutil.copyfile(study.__file__, folder / "study.py")
    report.write(folder / "index.html", pathlib.Path(study.__file__).read_text(encoding="utf-8"))
    print(
        f"\nwrote {folder}/: index.html, results.nc, study.py and the pictures, in {time.perf_counter() - began:.0f} s"
    )


def _say(text: str) -> None:
    print(text, flush=True)


def _summary(rounds: int, seeds: int, study) -> str:
    count = rounds * seeds * len(study.POLICIES) * len(study.PROBLEMS)
    return (
        f"{len(study.PROBLEMS)} sequences of {rounds} related linear systems, {len(study.POLICIES)} policies, {seeds} "
        f"seeds: {count:,} solves. Before each solve a policy picks the relaxation parameter ω from a grid of "
        f"{len(study.ARMS)}; all that it learns is how many iterations that one solve took. Fewer is better."
    )


# --- stages ------------------------------------------------------------------------------------------------


def _photograph(folder, report, study, fast: bool) -> None:
    """Diffuse the three colour channels of the first photograph with one fixed parameter, and show two moments."""
    pictures = photographs.noisy()[:3]
    steps, pause = _STEPS, _STEPS // 2
    _, method, _, best, tol = study.PROBLEMS["photograph"]
    options = {"method": method, "policy": bandits.fixed(1, arm=0), "arms": study.ARMS[best : best + 1], "tol": tol}

    def diffuse(channel):
        stream = linear.streams.perona_malik(channel[None], steps_per_image=steps)
        # A sequence stops anywhere and goes on: the state is all that it needs.
        middle, first = linear.tuned_sequence(jax.random.key(0), stream, num_rounds=pause, **options)
        end, second = linear.tuned_sequence(
            jax.random.key(0), stream, num_rounds=steps - pause, state=middle, **options
        )
        return middle.carry.solution, end.carry.solution, first.steps.sum() + second.steps.sum()

    started = time.perf_counter()
    *moments, iterations = jax.jit(lambda channels: jax.lax.map(diffuse, channels))(jnp.asarray(pictures))
    middle, end = (np.moveaxis(np.asarray(u), 0, 2) for u in moments)
    seconds = time.perf_counter() - started
    axes = plot.images(
        [photographs.clean(), np.moveaxis(pictures, 0, 2), middle, end],
        titles=["photograph", "with noise: before", f"after {pause} steps", f"after {steps} steps"],
        columns=4,
    )
    size = f"{pictures.shape[1]} x {pictures.shape[2]} pixels"
    text = f"{3 * steps} implicit steps on {size}, {int(iterations.sum())} sweeps"
    report.figure(axes, folder / "photograph.png", f"Perona–Malik diffusion: {text}, {seconds:.1f} s with compilation.")
    _say(f"photograph: {text}, {seconds:.1f} s with compilation")


class Reference(NamedTuple):
    """What no policy knows beforehand: totals in hindsight, and the best parameter of every system."""

    fixed: float | None
    optimal: float
    omega: np.ndarray
    context: np.ndarray


def _references(report, folder, study, rounds: int) -> dict[str, Reference]:
    """Best fixed and instance-optimal totals, from the cost of every parameter on every system."""
    found, key = {}, jax.random.key(0)
    for name, (stream, method, _, _, tol) in study.PROBLEMS.items():
        if name == "random shift":
            # Young's formula knows the best parameter of this operator; all 20 arms would take many times as long.
            formula = Partial(bind(linear.streams.laplacian_omega, shape=(10, 10)))
            one = bandits.fixed(1, arm=0)
            _, record = linear.tuned_sequence(key, stream, method, one, formula, num_rounds=rounds, tol=tol)
            found[name] = Reference(None, float(record.steps.sum()), record.parameter, record.context)
            continue
        # The stream of photographs repeats after one pass, so one pass tells all.
        period = 6 * _STEPS if name == "photograph" else rounds
        table, context = linear.cost_table(key, stream, method, study.ARMS, num_rounds=min(rounds, period), tol=tol)
        table, context = (np.asarray(v)[np.arange(rounds) % period] for v in (table, context))
        omega = np.asarray(study.ARMS)[table.argmin(axis=1)]
        found[name] = Reference(float(table.sum(axis=0).min()), float(table.min(axis=1).sum()), omega, context)
        if name == "photograph":
            _heatmap(report, folder, study, table)
    return found


def _heatmap(report, folder, study, table) -> None:
    steps = min(_STEPS, len(table))
    shown = table[:steps].T
    ax = plot.heatmap(shown, dims=("arm", "step of the picture"), log=True, best=None, title="sweeps of every ω")
    ax.plot(range(steps), shown.argmin(axis=0), color="white", linewidth=3)
    ax.plot(range(steps), shown.argmin(axis=0), color="black", linewidth=1.5)
    ax.set_yticks(range(0, 20, 4), [f"{float(study.ARMS[i]):.2f}" for i in range(0, 20, 4)])
    ax.set_ylabel("ω")
    text = "One photograph: as the time step grows, the best parameter (line) drifts from 1 towards 2."
    report.figure([ax], folder / "drift.png", text)


def _totals(report, ds, references: dict[str, Reference], timing: dict, seconds: float) -> None:
    total = ds["steps"].sum("round").mean("seed")
    rows = []
    for problem in ds["problem"].values:
        mine, reference = total.sel(problem=problem), references[problem]
        one = float(mine.sel(policy="ω = 1"))
        fixed = reference.fixed or float(mine.sel(policy="best fixed ω"))
        values = [(policy, float(mine.sel(policy=policy))) for policy in ds["policy"].values]
        for policy, value in [*values, ("instance-optimal", reference.optimal)]:
            rows.append([problem, policy, value, value / fixed, value / one, value / reference.optimal])
    header = ["sequence", "policy", "iterations", "/ best fixed", "/ ω = 1", "/ instance-optimal"]
    cells = [[str(r[0]), str(r[1]), f"{r[2]:,.0f}", *(f"{v:.3f}" for v in r[3:])] for r in rows]
    printed = [header, *cells]
    widths = [max(len(row[i]) for row in printed) for i in range(len(header))]
    for row in printed:
        _say("  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))))
    report.table(header, cells)
    solves = int(ds["steps"].size)
    failed = int((ds["point.status"] != 0).sum())
    ran = timing["run_seconds"]
    line = (
        f"{solves:,} solves, {int(ds['steps'].sum()):,} iterations, {failed} failed: {ran:.1f} s running "
        f"({1e6 * ran / max(solves, 1):.0f} µs a solve on {timing['devices']} devices) and "
        f"{timing['compile_seconds']:.1f} s compiling, {seconds:.1f} s in all."
    )
    report.line(line)


def _figures(report, folder, ds, references: dict[str, Reference]) -> None:
    import matplotlib.pyplot as plt

    problems = list(ds["problem"].values)
    _, axes = plt.subplots(1, len(problems), figsize=(_WIDTH, 4.6), layout="constrained")
    for ax, problem in zip(axes, problems):
        ax.set_ylim(0.4, 2.2)
        cost = ds["steps"].sel(problem=problem).drop_sel(policy="ω = 1")
        plot.regret(cost, baseline="best fixed ω", kind="ratio", title=str(problem), ax=ax)
        ax.set_xlim(left=ds.sizes["round"] // 50)
        ax.set_ylim(0.4, 2.2)
        ax.set_ylabel("iterations so far / best fixed ω" if ax is axes[0] else "")
    text = "Iterations spent so far relative to the best fixed ω in hindsight: mean and 5–95 % band over the seeds."
    report.figure(axes, folder / "regret.png", text)

    colours = {"Tsallis-INF": "#E69F00", "ChebCB": "#0072B2"}
    _, axes = plt.subplots(2, len(problems), figsize=(_WIDTH, 7.4), layout="constrained", sharey=True)
    for (above, below), problem in zip(axes.T, problems):
        shown, reference = ds.sel(problem=problem).isel(seed=0), references[problem]
        last = slice(2 * ds.sizes["round"] // 3, None)
        for policy, colour in colours.items():
            mine = shown.sel(policy=policy)
            above.plot(mine["parameter"], ".", markersize=3, color=colour, label=policy)
            below.plot(mine["context"][last], mine["parameter"][last], ".", markersize=4, color=colour, alpha=0.6)
        order = np.argsort(reference.context)
        below.plot(reference.context[order], reference.omega[order], "k-", linewidth=1.5, label="instance-optimal")
        above.set(title=str(problem), xlabel="round")
        below.set(xlabel=f"context: {_CONTEXTS[problem]} (last third of the rounds)")
    for ax in axes[:, 0]:
        ax.set_ylabel("chosen ω")
        ax.legend(markerscale=4, loc="lower left", framealpha=0.9)
    text = (
        "The ω chosen over time (above) and against what the policy was shown (below): Tsallis-INF settles on few "
        "values, ChebCB finds how the best ω depends on the context. The black line knows every system's best ω."
    )
    report.figure(axes.ravel(), folder / "omega.png", text)


def _one_by_one(report, study, rounds: int) -> None:
    """The same rounds in a Python loop that dispatches every solve, against the one scan: the ratio of their times."""
    stream, method, (low, high), best, tol = study.PROBLEMS["heat equation"]
    policy = bandits.tsallis_inf(len(study.ARMS), floor=1.0)
    key = jax.random.key(0)
    options = {"method": method, "policy": policy, "arms": study.ARMS, "tol": tol}

    def loop():
        state, total = linear.tuned_init(key, stream, policy), 0
        for _ in range(rounds):
            state, record = linear.tuned_step(key, state, stream, **options)
            total += int(record.steps)
        return total

    def scan():
        return int(linear.tuned_sequence(key, stream, num_rounds=rounds, **options)[1].steps.sum())

    totals = loop(), scan()
    times = [[], []]
    for _ in range(3):
        for run, kept in zip((loop, scan), times):
            started = time.perf_counter()
            run()
            kept.append(time.perf_counter() - started)
    slow, fast = (statistics.median(kept) for kept in times)
    same = "equal" if totals[0] == totals[1] else "DIFFERENT"
    report.line(
        f"The same {rounds} heat-equation solves one by one, from Python: {1e6 * slow / rounds:.0f} µs a solve; in one "
        f"scan {1e6 * fast / rounds:.0f} µs: {slow / fast:.1f} times faster, {same} counts."
    )


__all__ = ["scene"]
