r"""What a quantised format is: a grid, where its scale comes from, which entries share one, and what gradients pass.

A tile of entries shares the unit $u = s\cdot\mathrm{stat} + \epsilon$ with the step s of the grid and a statistic: the
root mean square (rms), the largest magnitude (absmax), the mean magnitude times $\sqrt{\pi/2}$ (l1: equal to rms for
normal entries), the shrunken absmax of least squared error (mse), or 1 (fixed). Gradients pass where
$c\,u\,l_1 - Tu \le x \le c\,u\,l_L + Tu$ with the first and last levels $l_1$ and $l_L$: everywhere with the
straight-through estimator ($c = \infty$), inside c times the grid (clip), or up to half a gap beyond it (trust: the
entries whose error is at most half a gap; in this form the test is free of cancellation).

Reference: A. Panferov et al. 2025, arXiv:2502.05003 (QuEST), sections 3.1 and 3.2.
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from jaxsci.core.host import as_leaf
from jaxsci.core.static import check_size
from jaxsci.quantization import formats

SCALES = ("rms", "absmax", "mse", "l1", "fixed")
ESTIMATORS = ("ste", "clip", "trust")
_UNIFORM = ("midrise", "midtread", "affine")


class QuantSpec(eqx.Module):
    """A quantised format; made by `quant_spec`. Several of one kind, of any number of bits, stack: see `unify`.

    Attributes:
        grid: name of the grid (static).
        scale: what the unit is made from, one of ``"rms"``, ``"absmax"``, ``"mse"``, ``"l1"``, ``"fixed"`` (static).
        granularity: ``"tensor"``, ``"channel"`` or ``"group"``: which entries share a unit (static).
        axis: that products contract, that transforms run along, and that codes are packed along (static).
        group: entries of `axis` that share a unit with "group", else 0 (static).
        hadamard: block of the Hadamard transform along `axis` before the grid, 0 for none (static).
        domain: ``"half"``: results stay transformed; ``"full"``: they are transformed back (static).
        bound: whether the largest magnitude lies on the last level, ``"qmax"``, or half a step beyond it,
            ``"qmax+0.5"`` (static; already in `step`).
        bits: of a packed code, None where formats of several are stacked (static).
        levels: of the grid in units, ascending; beyond `count` they are infinite.
        count: how many levels, int32.
        step: the unit that belongs to a statistic of 1.
        clip_scale: c.
        trust: T in units.
        eps: added to the unit.
    """

    grid: str = eqx.field(static=True)
    scale: str = eqx.field(static=True)
    granularity: str = eqx.field(static=True)
    axis: int = eqx.field(static=True)
    group: int = eqx.field(static=True)
    hadamard: int = eqx.field(static=True)
    domain: str = eqx.field(static=True)
    bound: str = eqx.field(static=True)
    bits: int | None = eqx.field(static=True)
    levels: Float[Array | np.ndarray, " L"]
    count: Int[ArrayLike, ""]
    step: Float[ArrayLike, ""]
    clip_scale: Float[ArrayLike, ""]
    trust: Float[ArrayLike, ""]
    eps: Float[ArrayLike, ""]

    @staticmethod
    def unify(trees: Sequence[PyTree]) -> list[PyTree]:
        """What `jaxsci.sweep.stack` calls: `quantization.unify`."""
        return unify(trees)


def quant_spec(
    grid: formats.Grid,
    *,
    scale: str = "rms",
    axis: int = 0,
    granularity: str = "channel",
    group: int | None = None,
    hadamard: int = 0,
    domain: str = "half",
    estimator: str = "ste",
    bound: str = "qmax",
    unit: Float[ArrayLike, ""] | None = None,
    clip_scale: Float[ArrayLike, ""] | None = None,
    trust: Float[ArrayLike, ""] | None = None,
    eps: Float[ArrayLike, ""] | None = None,
    reference: bool = False,
) -> QuantSpec:
    """A validated format.

    Args:
        grid: from `quantization.formats`.
        scale: statistic of a tile that its unit is made from: "rms", "absmax" (of an affine grid: the range, 0
            included), "mse", "l1" or "fixed" (static).
        axis: along which tiles run: 0 for kernels (in, out), -1 for activations (static).
        granularity: "channel": all entries along `axis` share a unit; "tensor": the whole array does (static).
        group: so many neighbours along `axis` share a unit; None follows `granularity` (static).
        hadamard: block of the transform along `axis` before the grid, a power of two; 0 is none (static).
        domain: "half" leaves results transformed, as products of two transformed factors want them; "full" transforms
            them back (static).
        estimator: which gradients pass: "ste" all, "clip" those within `clip_scale` times the grid, "trust" those whose
            error is at most `trust` (static; it only chooses the two leaves).
        bound: "qmax": the largest magnitude becomes the last level; "qmax+0.5": half a step more (static; for "absmax"
            and "mse").
        unit: that belongs to a statistic of 1, traced. By default that of least error for normal entries with "rms" and
            "l1", and the one that `bound` tells with "absmax" and "mse"; "fixed" needs it.
        clip_scale: c, traced; 1 by default.
        trust: T in units, traced; half of the widest gap by default (1/2 on uniform grids).
        eps: added to every unit, traced. By default 0 where the grid has a zero, else 1e-8 over the last level, so that
            zeros become tiny numbers.
        reference: use the published constants of QuEST where exact roots are the default (static).

    Raises:
        ValueError: an unknown name, sizes that are none, a block that is no power of two, an estimator without the
            argument given for it, an affine grid with a statistic that has no range, "fixed" without `unit`.
        TypeError: `grid` is none.

    Example:
        >>> from jaxsci.quantization import formats, quant_spec
        >>> spec = quant_spec(formats.midrise(2), hadamard=128, estimator="trust")
        >>> print(spec.levels, round(float(spec.step), 6), spec.trust)
        [-1.5 -0.5  0.5  1.5] 0.995687 0.5
    """
    if not isinstance(grid, formats.Grid):
        got = f"{type(grid).__name__} {grid!r}" if isinstance(grid, (int, str)) else type(grid).__name__
        raise TypeError(f"quant_spec: grid must come from quantization.formats, e.g. formats.midrise(4), got {got}")
    for name, value, known in (
        ("scale", scale, SCALES), ("granularity", granularity, ("tensor", "channel")), ("domain", domain,
        ("half", "full")), ("estimator", estimator, ESTIMATORS), ("bound", bound, ("qmax", "qmax+0.5")),
    ):  # fmt: skip
        if value not in known:
            raise ValueError(f"quant_spec: {name} must be one of {', '.join(known)}, got {value!r}")
    if group is not None:
        group, granularity = check_size("quant_spec", "group", group), "group"
    hadamard = check_size("quant_spec", "hadamard", hadamard, least=0)
    if hadamard & (hadamard - 1):
        raise ValueError(f"quant_spec: hadamard must be a power of two, or 0 for none, got {hadamard}")
    if grid.name == "affine" and scale not in ("absmax", "mse"):
        raise ValueError(f"quant_spec: an affine grid needs scale='absmax' (its range) or 'mse', got {scale!r}")
    if grid.name == "affine" and bound != "qmax":
        raise ValueError("quant_spec: an affine grid ends on its last codes; use bound='qmax'")
    top = grid.levels[-1]
    if eps is None:
        eps = 0.0 if np.any(grid.levels == 0) else 1e-8 / top
    clip_scale, trust = _estimator(estimator, grid, clip_scale, trust)
    return QuantSpec(
        grid.name, scale, granularity, _axis(axis), group or 0, hadamard, domain, bound, grid.bits,
        np.asarray(grid.levels, np.float64), np.asarray(len(grid.levels), np.int32)[()],
        as_leaf(_unit(grid, scale, bound, reference) if unit is None else unit), as_leaf(clip_scale), as_leaf(trust),
        as_leaf(eps),
    )  # fmt: skip


def _axis(axis: int) -> int:
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise ValueError(f"quant_spec: axis must be an int, got {axis!r}")
    return int(axis)


def _unit(grid: formats.Grid, scale: str, bound: str, reference: bool) -> float:
    if scale == "fixed":
        raise ValueError("quant_spec: scale='fixed' needs unit=, the size of one step")
    if scale in ("rms", "l1"):
        return formats.gaussian(grid, reference=reference).unit
    return 1 / (grid.levels[-1] + (0.5 if bound == "qmax+0.5" else 0.0))


def _estimator(estimator: str, grid: formats.Grid, clip_scale, trust):
    if clip_scale is not None and estimator != "clip":
        raise ValueError(f"quant_spec: clip_scale belongs to estimator='clip', got estimator={estimator!r}")
    if trust is not None and estimator != "trust":
        raise ValueError(f"quant_spec: trust belongs to estimator='trust', got estimator={estimator!r}")
    if estimator == "ste":
        return np.inf, 0.0
    if estimator == "clip":
        return 1.0 if clip_scale is None else clip_scale, 0.0
    return 1.0, np.max(np.diff(grid.levels)) / 2 if trust is None else trust


def is_uniform(spec: QuantSpec) -> bool:
    """Whether values are whole numbers of steps, up to half a one."""
    return spec.grid in _UNIFORM


def _is_spec(x) -> bool:
    return isinstance(x, QuantSpec)


def unify(trees: Sequence[PyTree]) -> list[PyTree]:
    """Formats that differ in bits, estimators and numbers as trees of one structure, so that they stack and vmap.

    Tables of levels are padded to the longest; `bits` becomes None where the formats differ in it, and what was made of
    several can be trained with but not packed. `jaxsci.sweep.stack` calls this by itself.

    Args:
        trees: of equal structure, each holding `QuantSpec` at the same places.

    Raises:
        ValueError: no trees, or formats of different kinds at one place.

    Example:
        >>> from jaxsci.quantization import formats, quant_spec, unify
        >>> one, four = unify([quant_spec(formats.midrise(b)) for b in (1, 4)])
        >>> print(one.levels.shape, four.levels.shape, one.count, one.bits)
        (16,) (16,) 2 None
    """
    trees = list(trees)
    if not trees:
        raise ValueError("quantization.unify: no formats")
    parts = [jax.tree.flatten(tree, is_leaf=_is_spec) for tree in trees]
    if any(structure != parts[0][1] for _, structure in parts):
        raise ValueError("quantization.unify: the trees differ in structure; formats must stand at the same places")
    columns = [_unified(column) if _is_spec(column[0]) else column for column in zip(*(leaves for leaves, _ in parts))]
    return [parts[0][1].unflatten(leaves) for leaves in zip(*columns)]


KIND = ("grid", "scale", "granularity", "axis", "group", "hadamard", "domain", "bound")


def _unified(specs: Sequence[QuantSpec]) -> list[QuantSpec]:
    for name in KIND:
        found = sorted({str(getattr(spec, name)) for spec in specs})
        if len(found) > 1:
            raise ValueError(
                f"quantization.unify: formats differ in {name} ({', '.join(found)}), which is static; sweep over it "
                "with sweep.static"
            )
    size = max(spec.levels.shape[0] for spec in specs)
    bits = specs[0].bits if len({spec.bits for spec in specs}) == 1 else None

    def padded(spec):
        levels = np.asarray(spec.levels)
        levels = np.concatenate([levels, np.full(size - len(levels), np.inf, levels.dtype)])
        kind = [getattr(spec, name) for name in KIND]
        return QuantSpec(
            *kind, bits, levels, spec.count, spec.step, spec.clip_scale, spec.trust, spec.eps
        )  # fmt: skip

    return [padded(spec) for spec in specs]


__all__ = ["ESTIMATORS", "KIND", "SCALES", "QuantSpec", "is_uniform", "quant_spec", "unify"]
