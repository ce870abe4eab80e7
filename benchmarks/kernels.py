"""Kernels against the same computation written in jax.numpy, and against the bandwidth of a copy on this device."""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._harness import compare, compiled, main
from jaxsci import linear
from jaxsci.nn.attention import attention
from pallas_kernels import extrema, log_weight_stats, permute, sor
from pallas_kernels.extrema import arg_specs
from pallas_kernels.hadamard_quantize import arg_specs as quantize_specs
from pallas_kernels.log_weight_stats import arg_specs as stats_specs
from pallas_kernels.permute import arg_specs as permute_specs
from pallas_kernels.permute import settle
from pallas_kernels.pfn_attention import arg_specs as attention_specs
from pallas_kernels.resample import arg_specs as resample_specs
from pallas_kernels.sor import arg_specs as sor_specs


def _pair(x):
    return jnp.min(x), jnp.max(x)


def _difference(ours, theirs):
    return max(abs(float(a) - float(b)) for a, b in zip(ours, theirs))


def _extrema(fast):
    """`extrema`: one pass over memory. Its peers are `jnp.min` with `jnp.max`, and a copy as the ceiling."""
    seconds = 0.5 if fast else 3.0
    note = "accuracy: largest difference of the results" + ("; fits in cache" if fast else "")
    for name in ("several_steps",) if fast else arg_specs.TIMED:
        args = arg_specs.make(jax.random.key(0), name)
        gigabytes = arg_specs.cost(name)[0] / 1e9
        common = dict(amount=gigabytes, unit="GB/s", seconds=seconds)
        ours = compiled(lambda x: extrema(x), *args)
        yield compare(
            f"extrema {name}", ours, compiled(_pair, *args), peer_name="jnp.min, jnp.max", accuracy=_difference,
            target=1.0, note=note, **common,
        )  # fmt: skip
        copy = compiled(lambda x: x + jnp.ones((), x.dtype), *args)  # reads and writes: twice the bytes
        line = compare(f"extrema {name} against a copy", ours, copy, peer_name="copy", **common)
        peer, ratio = 2 * line["peer"], line["ratio"] / 2
        yield line | {"peer": peer, "ratio": ratio, "note": f"ratio: share of the copy's bandwidth; {line['note']}"}


def _stats_by_softmax(x):
    """The same numbers as one writes them first."""
    largest = jnp.max(x)
    weights = jnp.exp(x - largest)
    return largest, jnp.sum(weights), jnp.sum(weights**2), jnp.any(jnp.isnan(x)).astype(jnp.int32)


def _relative(ours, theirs):
    return max(abs(float(a) - float(b)) / max(abs(float(b)), 1e-30) for a, b in zip(ours[:3], theirs[:3]))


def _by_search(x, offset):
    """Systematic resampling as every float32 package writes it: prefix sums of the weights, then a binary search."""
    points = (jnp.arange(x.shape[0]) + offset) / x.shape[0]
    return jnp.clip(jnp.searchsorted(jnp.cumsum(jax.nn.softmax(x)), points, side="right"), 0, x.shape[0] - 1)


def _violations(x):
    """A function of ancestors: the share of particles whose offspring are off by one or more."""
    weights = np.exp(np.asarray(x, np.float64) - float(np.max(x)))
    shares = x.size * (weights / weights.sum())

    def share(ancestors):
        counts = np.bincount(np.asarray(ancestors), minlength=x.size)
        return float(np.mean((counts < np.floor(shares)) | (counts > np.ceil(shares))))

    return share


def _clouds(fast):
    """`log_weight_stats` and `resample` against the usual jax.numpy, and against a copy as the ceiling."""
    here = "the TPU and GPU kernels: not measured here" if jax.default_backend() == "cpu" else ""
    seconds = 0.5 if fast else 3.0
    on_device = jax.default_backend() != "cpu"
    for name in ("several_steps",) if fast else ("several_steps", *stats_specs.TIMED):
        args = stats_specs.make(jax.random.key(0), name)
        ours = compiled(lambda x: log_weight_stats(x), *args)
        common = dict(amount=stats_specs.cost(name)[0] / 1e9, unit="GB/s", seconds=seconds)
        note = "; ".join(filter(None, ["accuracy: largest relative difference of the results", here]))
        peer = compiled(_stats_by_softmax, *args)
        yield compare(
            f"log_weight_stats {name}",
            ours,
            peer,
            peer_name="jnp.max, exp, sum",
            accuracy=_relative,
            note=note,
            **common,
        )
        yield _share_of_copy(f"log_weight_stats {name}", ours, args[0], common, 0.8 if on_device else None, here)
    for name in ("several_steps",) if fast else ("several_steps", *resample_specs.TIMED):
        args = resample_specs.make(jax.random.key(0), name)
        ours = compiled(lambda x, u: resample_specs.as_many(x, u), *args)
        common = dict(amount=resample_specs.cost(name)[0] / 1e9, unit="GB/s", seconds=seconds)
        share = _violations(args[0])
        peer = compiled(_by_search, *args)
        theirs = share(_by_search(*args))
        note = f"accuracy: share of particles whose offspring are off by one or more, {theirs:.1e} by the peer"
        yield compare(
            f"resample {name}", ours, peer, peer_name="cumsum, searchsorted", target=1.0, within=0.0,
            accuracy=lambda a, b, share=share: share(a), note="; ".join(filter(None, [note, here])), **common,
        )  # fmt: skip
        yield _share_of_copy(f"resample {name}", ours, args[0], common, 0.5 if on_device else None, here)


_TURNS = 20


def _turns(in_place):
    """Permutations one after the other, as a scan over tokens has them."""

    def run(x, ancestors):
        def turn(x, shift):
            return permute(x, settle(jnp.roll(ancestors, shift)), in_place=in_place), None

        return jax.lax.scan(turn, x, jnp.arange(_TURNS))[0]

    return run


def _different(ours, theirs):
    return float(jnp.mean(ours != theirs))


def _permute(fast):
    """`permute` against indexing and a copy; in place in a loop against a gather there."""
    here = "the TPU and GPU kernels: not measured here" if jax.default_backend() == "cpu" else ""
    seconds = 0.5 if fast else 3.0
    on_device = jax.default_backend() != "cpu"
    for name in ("caches",) if fast else permute_specs.TIMED:
        args = permute_specs.make(jax.random.key(0), name)
        common = dict(amount=permute_specs.cost(name)[0] / 1e9, unit="GB/s", seconds=seconds)
        note = "; ".join(filter(None, ["accuracy: share of numbers that differ", here]))
        ours = compiled(lambda x, a: permute(x, a), *args)
        yield compare(
            f"permute {name}", ours, compiled(lambda x, a: x[a], *args), peer_name="x[ancestors]",
            accuracy=_different, within=0.0, note=note, **common,
        )  # fmt: skip
        yield _share_of_copy(f"permute {name}", ours, args[0], common, 0.5 if on_device else None, here)
        common["amount"] *= _TURNS
        yield compare(
            f"permute {name} in place, {_TURNS} times in a scan", compiled(_turns(True), *args),
            compiled(_turns(False), *args), peer_name="gather", accuracy=_different, within=0.0,
            target=None if on_device else 2.0, note=note, **common,
        )  # fmt: skip


def _share_of_copy(name, ours, x, common, target, here):
    """The row of `ours` against the bandwidth of a copy, which reads and writes: twice the bytes of x."""
    line = compare(f"{name} against a copy", ours, compiled(lambda x: x + jnp.ones((), x.dtype), x), **common)
    peer = line["peer"] * 2 * x.nbytes / 1e9 / common["amount"]  # its own bytes
    ratio = line["ours"] / peer
    note = "; ".join(filter(None, ["ratio: share of the copy's bandwidth", line["note"], here]))
    ok = None if target is None else ratio >= target
    return line | {"peer_name": "copy", "peer": peer, "ratio": ratio, "target": target, "ok": ok, "note": note}


def _dense(query, key, value, n):
    """The same attention as one writes it first: all tokens times all tokens under a mask."""
    token = jnp.arange(query.shape[0])
    return attention(query, key, value, (token[None, :] < n) | (token[None, :] == token[:, None]))


def _dense_slopes(*args):
    *tokens, n = args

    def total(*tokens):
        out = _dense(*tokens, n).astype(jnp.float32)
        return jnp.sum(out * jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape))

    return jax.grad(total, (0, 1, 2))(*tokens)


def _apart(ours, theirs):
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs))
    return max(float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b))) for a, b in pairs)


def _attention(fast):
    """`pfn_attention` against dense attention under a mask, and against a product of matrices as the ceiling."""
    on_device = jax.default_backend() != "cpu"
    here = "" if on_device else "the TPU and GPU kernels: not measured here"
    seconds = 0.5 if fast else 3.0
    for name in ("several_steps",) if fast else ("several_steps", *attention_specs.TIMED):
        args = attention_specs.make(jax.random.key(0), name)
        billions = attention_specs.cost(name)[1] / 1e9
        note = "; ".join(filter(None, ["operations of the live slots; accuracy: largest relative difference", here]))
        ours = compiled(attention_specs.halves, *args)
        common = dict(amount=billions, unit="GFLOP/s", seconds=seconds)
        peer = compiled(_dense, *args)
        yield compare(
            f"pfn_attention {name}", ours, peer, peer_name="dense attention", accuracy=_apart, target=1.0, note=note,
            **common,
        )  # fmt: skip
        yield compare(
            f"pfn_attention {name}, gradients", compiled(attention_specs.slopes, *args),
            compiled(_dense_slopes, *args), peer_name="dense attention", accuracy=_apart, target=1.0, note=note,
            **common | {"amount": 4.5 * billions},
        )  # fmt: skip
        side = 1024 if fast or not on_device else 4096
        matrix = jnp.asarray(np.random.default_rng(0).standard_normal((side, side)), args[0].dtype)
        line = compare(
            f"pfn_attention {name} against a matrix product", ours, compiled(jnp.dot, matrix, matrix), **common
        )
        peer = line["peer"] * 2 * side**3 / 1e9 / billions  # its own operations
        note = "; ".join(filter(None, ["ratio: share of the product's rate", line["note"], here]))
        yield line | {"peer_name": "jnp.dot", "peer": peer, "ratio": line["ours"] / peer, "note": note}


def _by_butterflies(x):
    """The same bytes as one writes them first: seven stages of sums and differences, the scale of what they give."""
    turned, half = x.astype(jnp.float32).reshape(-1, 128), 1
    while half < 128:
        turned = turned.reshape(-1, 64 // half, 2, half)
        turned = jnp.stack([turned[:, :, 0] + turned[:, :, 1], turned[:, :, 0] - turned[:, :, 1]], axis=2)
        half *= 2
    turned = turned.reshape(x.shape) / np.sqrt(128)
    scale = quantize_specs.CLIP_FACTOR * jnp.sqrt(jnp.mean(turned**2, axis=1)) + 1e-8
    step = 2 * scale / 15
    codes = jnp.clip(jnp.floor(turned / step[:, None]), -8, 7).astype(jnp.int32)
    low, high = jnp.moveaxis(codes.reshape(x.shape[0], -1, 2, 128), 2, 0)
    return jax.lax.bitcast_convert_type(((low & 15) | (high & 15) << 4).astype(jnp.uint8), jnp.int8).reshape(
        x.shape[0], -1
    ), step


def _bytes_apart(ours, theirs):
    return float(jnp.mean(ours[0] != theirs[0]))


def _quantize(fast):
    """`hadamard_quantize` against the usual jax.numpy, and against a copy as the ceiling."""
    on_device = jax.default_backend() != "cpu"
    here = "" if on_device else "the TPU and GPU kernels: not measured here"
    seconds = 0.5 if fast else 3.0
    for name in ("ragged",) if fast else ("ragged", *quantize_specs.TIMED):
        args = quantize_specs.make(jax.random.key(0), name)
        ours = compiled(quantize_specs.packed, *args)
        common = dict(amount=quantize_specs.cost(name)[0] / 1e9, unit="GB/s", seconds=seconds)
        note = "; ".join(filter(None, ["accuracy: share of bytes that differ", here]))
        yield compare(
            f"hadamard_quantize {name}", ours, compiled(_by_butterflies, *args), peer_name="butterflies, floor",
            accuracy=_bytes_apart, target=1.0, within=1e-3, note=note, **common,
        )  # fmt: skip
        yield _share_of_copy(f"hadamard_quantize {name}", ours, args[0], common, 0.7 if on_device else None, here)


_SWEEPS, _OMEGA = 20, 1.5
_LAPLACIAN = np.array([4.0, -1, -1, -1, -1])


def _ours(u, b, coefficients):
    out = sor(u, b, coefficients, _OMEGA, num_sweeps=_SWEEPS, residuals=True)
    return out.value, out.residuals


def _masked(u, b, coefficients):
    """The same sweeps as one writes them first: the whole grid, every other cell thrown away, then the residual."""
    d, n, s, w, e = coefficients if coefficients.ndim > 1 else coefficients[:, None, None]
    red = (jnp.arange(u.shape[0])[:, None] + jnp.arange(u.shape[1])[None, :]) % 2 == 0

    def residual(u):
        p = jnp.pad(u, 1)
        return b - d * u - n * p[:-2, 1:-1] - s * p[2:, 1:-1] - w * p[1:-1, :-2] - e * p[1:-1, 2:]

    def sweep(u, _):
        for colour in (red, ~red):
            u = u + jnp.where(colour, _OMEGA * residual(u) / d, 0)
        return u, jnp.linalg.norm(residual(u))

    return jax.lax.scan(sweep, u, None, length=_SWEEPS)


def _natural(u, b, coefficients):
    """Natural order by wavefront: other iterates, the same rate."""
    op = linear.operators.stencil5(*coefficients, shape=u.shape, symmetric=True)
    out = linear.solve(op, b, u, method=linear.methods.sor(_OMEGA), tol=0.0, max_steps=_SWEEPS)
    return out.value, out.residual


def _norms_apart(ours, peer):
    return float(np.max(np.abs(ours[1] / peer[1] - 1)))


def _sor(fast, peers):
    """`sor`: sweeps with their residual norms, against pyamg, masked sweeps, natural order and a copy."""
    elsewhere = "; the TPU and GPU kernels: not measured here" if jax.default_backend() == "cpu" else ""
    seconds = 0.5 if fast else 3.0
    jax.config.update("jax_enable_x64", True)
    for n in (100,) if fast else (10, 100, 400):
        b = np.random.default_rng(0).standard_normal((n, n))
        args = (jnp.zeros((n, n)), jnp.asarray(b), jnp.asarray(_LAPLACIAN))
        ours, name = compiled(_ours, *args), f"{_SWEEPS} SOR sweeps with residuals, {n} x {n}, float64"
        common = dict(seconds=seconds, note="accuracy: largest relative difference of the norms")
        grid = dict(rows=n, cols=n, shift=0.0, b=b.ravel())
        peer = peers.find("pyamg", "linear:sor_sweeps", omega=_OMEGA, count=_SWEEPS, **grid)
        target = 4.0 if n == 100 else None
        yield compare(name, ours, peer, peer_name="pyamg, natural order", target=target, seconds=seconds)
        yield compare(name, ours, compiled(_masked, *args), peer_name="masked sweeps", accuracy=_norms_apart, **common)
        yield compare(name, ours, compiled(_natural, *args), peer_name="jaxsci wavefront", seconds=seconds)
    for name in ("medium", "medium_variable") if fast else sor_specs.TIMED:
        u, b, coefficients, _ = sor_specs.make(jax.random.key(0), name)
        common = dict(amount=sor_specs.cost(name, _SWEEPS)[0] / 1e9, unit="GB/s", seconds=seconds)
        ours, peer = compiled(_ours, u, b, coefficients), compiled(_masked, u, b, coefficients)
        yield compare(f"sor {name}", ours, peer, peer_name="masked sweeps", **common)
        copy = compiled(lambda x: x + jnp.ones((), x.dtype), b)
        line = compare(f"sor {name} against a copy", ours, copy, peer_name="copy", **common)
        peer = line["peer"] * 2 * b.nbytes / sor_specs.cost(name, _SWEEPS)[0]  # its own bytes: one grid in, one out
        note = f"ratio: share of the copy's bandwidth; {line['note']}{elsewhere}"
        yield line | {"peer": peer, "ratio": line["ours"] / peer, "note": note}


def rows(fast, peers):
    """All ops. The last ones need float64, which is switched on there."""
    yield from _extrema(fast)
    yield from _clouds(fast)
    yield from _permute(fast)
    yield from _attention(fast)
    yield from _quantize(fast)
    yield from _sor(fast, peers)


if __name__ == "__main__":
    sys.exit(main("kernels", rows))
