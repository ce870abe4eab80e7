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

from jaxsci import linear, plot
from jaxsci.bandits import policies
from jaxsci.core.extras import require
from jaxsci.core.provenance import device_description, versions
from jaxsci.core.static import bind
from jaxsci.demo import _shared, page, photographs, resume

_WIDTH = 14.0
_STEPS = 30  # of every photograph, as in the study
_SETTINGS, _FAST = "ROUNDS, SEEDS = 1000, 2", "ROUNDS, SEEDS = 60, 2"
_CONTEXTS = {
    "random shift": "the shift c",
    "heat equation": "conductivity κ(t)",
    "photograph": "log₁₀(1 + 4τḡ)",
}


def scene(folder: pathlib.Path, fast: bool) -> None:
    """Run the scene into `folder`.

    Args:
        folder: made if it is not there; what a former run of the same sizes finished in it is kept and used.
        fast: small sizes; their sweep is kept beside that of the full ones.

    Raises:
        OSError: the folder cannot be written, or holds another scene.
        ImportError: the extra "demo" is missing.
        jaxsci.sweep.SweepMismatch: the folder's sweep is that of another study or of other versions.
    """
    began = time.perf_counter()
    require("matplotlib", "demo", "the demo")
    require("xarray", "demo", "the demo")
    _shared.claim(folder, "solvers")
    full, small = _shared.source("_study.py", {}), _shared.source("_study.py", {_SETTINGS: _FAST})
    text = small if fast else full
    study = _shared.load(text)
    device = device_description()
    print(
        f"jaxsci {versions()['jaxsci']} · jax {jax.__version__} · {jax.device_count()} x {device['kind']}", flush=True
    )
    report = page.Page("Bandits that tune linear solvers", _summary(study), _shared.environment(device))
    _explain(report, study)

    _photograph(folder, report, study, fast)
    _say(f"first picture after {time.perf_counter() - began:.0f} s: {folder / 'photograph.png'}")
    _say("the cost of every fixed ω on every system, for comparison ...")
    references = _references(report, folder, study)

    kept = _shared.sweep_folder(folder, text)
    _say("the study ...")
    started = time.perf_counter()
    ds = study.study(out=kept)
    seconds = time.perf_counter() - started
    ds = ds.rename(key="seed")
    timing = json.loads(ds.attrs["provenance"])
    _totals(report, ds, study, references, timing, seconds)
    colours = _regret(report, folder, ds, study, references)
    _chosen(report, folder, ds, references, colours)
    _say("the same solves one by one, from Python ...")
    _one_by_one(report, study, 20 if fast else 200)
    _say("a sweep, killed and resumed ...")
    report.line(resume.demonstrate(folder))

    shutil.copyfile(kept / "results.nc", folder / "results.nc")
    _shared.write_study(folder / "study.py", text, (full, small))
    report.write(folder / "index.html", text)
    print(
        f"\nwrote {folder}/: index.html, results.nc, study.py and the pictures, in {time.perf_counter() - began:.0f} s"
    )


def _say(text: str) -> None:
    print(text, flush=True)


def _summary(study) -> str:
    count = study.ROUNDS * study.SEEDS * len(study.POLICIES) * len(study.PROBLEMS)
    return (
        f"{len(study.PROBLEMS)} sequences of {study.ROUNDS} related linear systems, {len(study.POLICIES)} policies, "
        f"{study.SEEDS} seeds: {count:,} solves. Before each solve a policy picks the relaxation parameter ω from a "
        f"grid of {len(study.ARMS)}; all that it learns is how many iterations that one solve took. Fewer is better."
    )


def _explain(report, study) -> None:
    """What the sequences are, and what the table compares with."""
    cells, tol = photographs.noisy().shape[1:], {name: p[-1] for name, p in study.PROBLEMS.items()}
    report.paragraph(
        "Random shift: a Laplacian on 10 x 10 cells plus a random multiple of the identity, 100 unknowns, with random "
        f"right-hand sides, by successive over-relaxation (SOR) to a relative residual of {tol['random shift']:.0e}."
    )
    report.paragraph(
        "Heat equation: Crank-Nicolson steps on 25 x 25 cells, 576 unknowns, while the conductivity swings by a factor "
        f"of 100, by conjugate gradients with an SSOR preconditioner to {tol['heat equation']:.0e}."
    )
    report.paragraph(
        f"Photograph: implicit Perona-Malik diffusion of noisy pictures of {cells[0]} x {cells[1]} pixels, "
        f"{cells[0] * cells[1]} unknowns, {_STEPS} steps of growing length for each, by SOR to "
        f"{tol['photograph']:.0e}; after six pictures the sequence begins again."
    )
    report.paragraph(
        "Most of the policies know nothing but the counts. Learnt physics (`linear.physics_policy`) knows the theory "
        "of the method, how its rate depends on ω and on the spectrum, and learns its constants from the counts."
    )
    report.paragraph(
        "Two rows are known in hindsight only and are no policies. Instance-optimal: every single system gets the ω "
        "that is best for it, the cheapest of the grid or, for the random shift, that of Young's formula. Best fixed "
        "ω: the one ω of the grid with the least total, where the cost of every ω on every system was computed."
    )


# --- stages ------------------------------------------------------------------------------------------------


def _photograph(folder, report, study, fast: bool) -> None:
    """Diffuse the three colour channels of the first photograph with one fixed parameter, and show two moments."""
    pictures = photographs.noisy()[:3]
    steps, pause = _STEPS, _STEPS // 2
    _, method, _, good, tol = study.PROBLEMS["photograph"]
    options = {"method": method, "policy": policies.fixed(1, arm=0), "arms": study.ARMS[good : good + 1], "tol": tol}

    def diffuse(channel):
        stream = linear.streams.perona_malik(channel[None], steps_per_image=steps)
        # A sequence stops anywhere and goes on: the state is all that it needs.
        first = linear.tuned_sequence(jax.random.key(0), stream, num_rounds=pause, **options)
        second = linear.tuned_sequence(
            jax.random.key(0), stream, num_rounds=steps - pause, state=first.state, **options
        )
        return first.value, second.value, first.history.steps.sum() + second.history.steps.sum()

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
    """What no policy knows beforehand: totals in hindsight, and the best parameter of every system.

    Attributes:
        fixed: (ω, total) of the best fixed ω of the grid; None where not every ω was tried.
        optimal: total when every system gets its best ω.
        omega: the best ω of each system of seed 0.
        context: the context of each system of seed 0.
    """

    fixed: tuple[float, float] | None
    optimal: float
    omega: np.ndarray
    context: np.ndarray


def _references(report, folder, study) -> dict[str, Reference]:
    """Best fixed and instance-optimal totals, from the cost of every parameter on every system."""
    found, rounds = {}, study.ROUNDS
    for name, (stream, method, _, _, tol) in study.PROBLEMS.items():
        if name == "random shift":
            # Young's formula knows the best parameter of this operator; all 20 arms would take many times as long.
            formula = Partial(bind(linear.streams.laplacian_omega, shape=(10, 10)))
            options = {"method": method, "policy": policies.fixed(1, arm=0), "arms": formula, "tol": tol}
            records = [
                linear.tuned_sequence(jax.random.key(seed), stream, num_rounds=rounds, **options).history
                for seed in range(study.SEEDS)  # these systems are other ones for each seed
            ]
            optimal = float(np.mean([record.steps.sum() for record in records]))
            found[name] = Reference(None, optimal, records[0].parameter, records[0].context)
            continue
        # The stream of photographs repeats after one pass, so one pass tells all.
        period = 6 * _STEPS if name == "photograph" else rounds
        table, context = linear.cost_table(
            jax.random.key(0), stream, method, study.ARMS, num_rounds=min(rounds, period), tol=tol
        )
        table, context = (np.asarray(v)[np.arange(rounds) % period] for v in (table, context))
        arms, total = np.asarray(study.ARMS), table.sum(axis=0)
        fixed = float(arms[total.argmin()]), float(total.min())
        found[name] = Reference(fixed, float(table.min(axis=1).sum()), arms[table.argmin(axis=1)], context)
        if name == "photograph":
            _heatmap(report, folder, study, table)
    return found


def _heatmap(report, folder, study, table) -> None:
    import xarray

    shown, arms = table[:_STEPS].T, np.asarray(study.ARMS)
    best = shown.argmin(axis=0)
    coords = {"ω": arms, "step of the picture": 1 + np.arange(shown.shape[1])}
    data = xarray.DataArray(shown, coords=coords, dims=tuple(coords), name="SOR sweeps to the tolerance")
    ax = plot.heatmap(data, log=True, best=None, title="the cost of every ω")
    for colour, width in (("white", 3), ("black", 1.5)):
        ax.plot(np.arange(len(best)) + 0.5, best + 0.5, color=colour, linewidth=width)  # centres of the cells
    text = (
        f"One photograph: as the time step grows, the best parameter (line) goes from {arms[best[0]]:.2f} at the first "
        f"step to {arms[best[-1]]:.2f} at step {len(best)}."
    )
    report.figure([ax], folder / "drift.png", text)


def _arm(study, problem) -> str:
    """The name of the fixed policy with the ω that the study has written down for this sequence."""
    return f"fixed ω = {float(study.ARMS[study.PROBLEMS[str(problem)][3]]):.2f}"


def _totals(report, ds, study, references: dict[str, Reference], timing: dict, seconds: float) -> None:
    total = ds["steps"].sum("round").mean("seed")
    rows, bounds = [], {"instance-optimal"}
    for problem in ds["problem"].values:
        mine, reference = total.sel(problem=problem), references[problem]
        one, fixed = (float(mine.sel(policy=policy)) for policy in ("ω = 1", "fixed ω"))
        values = [(str(policy), float(mine.sel(policy=policy))) for policy in ds["policy"].values]
        values = [(_arm(study, problem) if policy == "fixed ω" else policy, value) for policy, value in values]
        if reference.fixed is not None:
            values.append((f"best fixed ω = {reference.fixed[0]:.2f}", reference.fixed[1]))
            bounds.add(values[-1][0])
        for policy, value in [*values, ("instance-optimal", reference.optimal)]:
            rows.append([str(problem), policy, value, value / fixed, value / one, value / reference.optimal])
    header = ["sequence", "policy", "iterations", "/ fixed ω", "/ ω = 1", "/ instance-optimal"]
    cells = [[r[0], r[1], f"{r[2]:,.0f}", *(f"{v:.3f}" for v in r[3:])] for r in rows]
    printed = [header, *cells]
    widths = [max(len(row[i]) for row in printed) for i in range(len(header))]
    for row in printed:
        _say("  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))))
    report.table(header, cells, bounds)
    solves = int(ds["steps"].size)
    failed = int((ds["point.status"] != 0).sum())
    ran = timing["run_seconds"]
    line = (
        f"{solves:,} solves, {int(ds['steps'].sum()):,} iterations, {failed} failed: {ran:.1f} s running "
        f"({1e6 * ran / max(solves, 1):.0f} µs a solve on {timing['devices']} devices) and "
        f"{timing['compile_seconds']:.1f} s compiling, {seconds:.1f} s in all."
    )
    report.line(line)


def _regret(report, folder, ds, study, references: dict[str, Reference]) -> dict[str, str]:
    """Iterations so far against one fixed parameter; returns the colours of the policies."""
    import matplotlib.pyplot as plt

    problems = [str(problem) for problem in ds["problem"].values]
    policies = [str(policy) for policy in ds["policy"].values if policy != "ω = 1"]
    _, axes = plt.subplots(1, len(problems), figsize=(_WIDTH, 4.6), layout="constrained")
    for ax, problem in zip(axes, problems):
        ax.set_ylim(0.4, 2.2)
        cost = ds["steps"].sel(problem=problem, policy=policies)
        plot.regret(cost, baseline="fixed ω", kind="ratio", title=f"{problem}: {_arm(study, problem)}", ax=ax)
        ax.set_xlim(left=ds.sizes["round"] // 50)
        ax.set_ylim(0.4, 2.2)
        ax.set_ylabel("iterations so far / those with the fixed ω" if ax is axes[0] else "")
    best = [p for p, r in references.items() if r.fixed is not None and _arm(study, p) == f"fixed ω = {r.fixed[0]:.2f}"]
    text = "Iterations spent so far relative to the fixed ω named above each picture"
    text += f", which is the best of the grid in hindsight for: {', '.join(best)}. " if best else ". "
    text += f"Mean over {ds.sizes['seed']} seeds, with the band between their 5 and 95 % quantiles."
    colours = {line.get_label(): line.get_color() for line in axes[0].get_lines()}
    report.figure(axes, folder / "regret.png", text)
    return colours


def _chosen(report, folder, ds, references: dict[str, Reference], colours: dict[str, str]) -> None:
    """Which parameters two of the policies choose, over time and against the context."""
    import matplotlib.pyplot as plt

    problems = [str(problem) for problem in ds["problem"].values]
    last, used = slice(2 * ds.sizes["round"] // 3, None), {"Tsallis-INF": [], "ChebCB": []}
    figure, axes = plt.subplots(2, len(problems), figsize=(_WIDTH, 7.8), layout="constrained", sharey=True)
    for (above, below), problem in zip(axes.T, problems):
        shown, reference = ds.sel(problem=problem).isel(seed=0), references[problem]
        for policy in used:
            mine, colour = shown.sel(policy=policy), colours[policy]
            above.plot(mine["parameter"], ".", markersize=3, color=colour, label=policy)
            below.plot(mine["context"][last], mine["parameter"][last], ".", markersize=4, color=colour, alpha=0.6)
            used[policy].append(str(np.unique(mine["parameter"][last]).size))
        order = np.argsort(reference.context)
        below.plot(reference.context[order], reference.omega[order], "k-", linewidth=1.5, label="instance-optimal")
        above.set(title=problem, xlabel="round")
        below.set(xlabel=f"context: {_CONTEXTS[problem]} (last third of the rounds)")
    for ax in axes[:, 0]:
        ax.set_ylabel("chosen ω")
    handles = [*axes[0, 0].get_legend_handles_labels()[0], *axes[1, 0].get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, markerscale=4, frameon=False)
    counts = "; ".join(f"{policy} {', '.join(found)}" for policy, found in used.items())
    text = (
        "The ω chosen over time (above) and against the context (below), which ChebCB is shown and Tsallis-INF is not; "
        f"the black line knows every system's best ω. Seed 0. Different ω in the last third, by sequence: {counts}."
    )
    report.figure(axes.ravel(), folder / "omega.png", text)


def _one_by_one(report, study, rounds: int) -> None:
    """The same rounds in a Python loop that dispatches every solve, against the one scan: the ratio of their times."""
    stream, method, _, _, tol = study.PROBLEMS["heat equation"]
    policy = policies.tsallis_inf(len(study.ARMS), floor=1.0)
    key = jax.random.key(0)
    options = {"method": method, "policy": policy, "arms": study.ARMS, "tol": tol}

    def loop():
        state, total = linear.tuned_init(key, stream, policy), 0
        for _ in range(rounds):
            state, record = linear.tuned_step(key, state, stream, **options)
            total += int(record.steps)
        return total

    def scan():
        return int(linear.tuned_sequence(key, stream, num_rounds=rounds, **options).history.steps.sum())

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
