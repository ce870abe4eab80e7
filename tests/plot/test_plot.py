"""Figures: the data on the axes are the numbers they claim to be; labels come from names and units."""

import sys

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray
from matplotlib.colors import same_color
from matplotlib.patches import ConnectionPatch

from jaxsci import plot


def _cost(rng, policies=3, seeds=20, rounds=15):
    values = rng.normal(10, 2, (policies, seeds, rounds)) + np.arange(policies)[:, None, None]
    return xarray.DataArray(
        values,
        dims=("policy", "seed", "round"),
        coords={"policy": ["best", "b", "c"][:policies], "round": ("round", np.arange(rounds), {"units": "solves"})},
        name="num_iterations",
        attrs={"units": "1"},
    )


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def _band(ax, i):
    """Lowest and highest y of the i-th band at each x."""
    points = ax.collections[i].get_paths()[0].vertices
    xs = np.unique(points[:, 0])
    return np.array([[f(points[points[:, 0] == x, 1]) for x in xs] for f in (np.min, np.max)])


def _texts(ax):
    return [text.get_text() for text in ax.texts]


# --- lines -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [("policy", "seed", "round"), ("round", "policy", "seed")])
def test_lines_draw_mean_and_quantiles(order, rng):
    cost = _cost(rng).transpose(*order)
    ax = plot.lines(cost, x="round", over="seed", by="policy")
    assert len(ax.get_lines()) == len(ax.collections) == 3
    for i, policy in enumerate(cost.policy.values):
        np.testing.assert_allclose(ax.get_lines()[i].get_ydata(), cost.sel(policy=policy).mean("seed"), rtol=1e-12)
        expected = cost.sel(policy=policy).quantile([0.05, 0.95], "seed")
        np.testing.assert_allclose(_band(ax, i), expected, rtol=1e-12)
    assert sorted(_texts(ax)) == ["b", "best", "c"]
    assert ax.get_xlabel() == "round [solves]"
    assert ax.get_ylabel() == "num iterations\n(mean, 5–95 % over seed)"


def test_lines_with_standard_deviation_and_missing_values(rng):
    cost = _cost(rng)
    cost[1, 3:5, 2] = np.nan
    cost[1, :, 4] = np.nan  # nothing left: a gap
    cost[2, 0, 0] = np.inf  # not a number one can average: left out like a NaN
    ax = plot.lines(cost, over="seed", by="policy", x="round", band="sd")
    finite = cost.where(np.isfinite(cost))
    mean, sd = finite.mean("seed").values, finite.std("seed").values
    for i in range(3):
        np.testing.assert_allclose(ax.get_lines()[i].get_ydata(), mean[i], rtol=1e-12)
    np.testing.assert_allclose(_band(ax, 0), [mean[0] - sd[0], mean[0] + sd[0]], rtol=1e-12)
    assert np.isnan(ax.get_lines()[1].get_ydata()[4])


def test_lines_from_plain_and_device_arrays(rng):
    values = rng.normal(size=(2, 5, 7)).astype(np.float32)
    ax = plot.lines(jnp.asarray(values), by="method", over="seed", x="step", log="x")
    np.testing.assert_allclose(ax.get_lines()[1].get_ydata(), values[1].mean(0), rtol=1e-5)
    assert ax.get_xlabel() == "step" and ax.get_xscale() == "log" and sorted(_texts(ax)) == ["0", "1"]
    alone = plot.lines(jnp.ones(4, jnp.bfloat16))
    np.testing.assert_array_equal(alone.get_lines()[0].get_ydata(), np.ones(4))
    pooled = plot.lines(values, dims=("seed", "x", "round"), over=("seed", "round"))
    np.testing.assert_allclose(pooled.get_lines()[0].get_ydata(), values.mean((0, 2)), rtol=1e-5)
    named = plot.lines(xarray.DataArray([1.0, 2.0], dims="kind", coords={"kind": ["a", "b"]}))
    assert [t.get_text() for t in named.get_xticklabels()] == ["a", "b"]


def test_labels_of_lines_that_end_together_do_not_overlap():
    ends = np.array([1.0, 1.001, 1.002, 5.0])
    ax = plot.lines(xarray.DataArray(np.outer(ends, np.ones(4)), dims=("m", "x")), by="m")
    ax.figure.canvas.draw()
    boxes = sorted((text.get_window_extent() for text in ax.texts), key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 + 1 for low, high in zip(boxes, boxes[1:]))
    upwards = sorted(ax.texts, key=lambda text: text.get_window_extent().y0)
    assert [text.get_text() for text in upwards] == ["0", "1", "2", "3"]


def _boxes(ax):
    ax.figure.canvas.draw()
    return {text.get_text(): text.get_window_extent() for text in ax.texts if text.get_text()}


def _apart(ax):
    """No two texts of a figure touch, as rendered."""
    boxes = list(_boxes(ax).items())
    touching = [
        (a, b) for i, (a, one) in enumerate(boxes) for b, other in boxes[:i] if one.overlaps(other.padded(-0.5))
    ]
    assert not touching, touching


@pytest.mark.parametrize("ends", [np.ones(12), np.linspace(0, 1e-3, 9), [5.0] * 6 + [-5.0] * 6, [0, 0, 1, 1, 1, 40]])
def test_many_labels_are_apart_and_stay_within_the_axes(ends):
    ax = plot.lines(xarray.DataArray(np.outer(ends, [1.0, 1.0]), dims=("m", "x")), by="m")
    _apart(ax)
    boxes = _boxes(ax)
    low, high = ax.get_window_extent().intervaly
    assert len(boxes) == len(ends)
    assert all(low - 12 <= box.y0 and box.y1 <= high + 12 for box in boxes.values())
    # labels stand in the order of their lines
    order = sorted(boxes, key=lambda name: boxes[name].y0)
    assert [ends[int(name)] for name in order] == sorted(ends)


def test_lines_lead_to_the_labels_that_had_to_move():
    ends = np.array([1.0, 1.001, 1.002, 1.003, 5.0])
    ax = plot.lines(xarray.DataArray(np.outer(ends, [1.0, 1.0]), dims=("m", "x")), by="m")
    boxes, leads = _boxes(ax), [patch for patch in ax.patches if isinstance(patch, ConnectionPatch)]
    assert len(leads) == len(ends)
    for lead, end, (name, box) in zip(leads, ends, sorted(boxes.items(), key=lambda item: item[1].y0)):
        (first, last), color = lead.get_path().vertices[[0, -1]], dict(zip("01234", ax.get_lines()))[name].get_color()
        first, last = lead.get_transform().transform([first, last])
        np.testing.assert_allclose(first, ax.transData.transform((1.0, end)), atol=4)  # pixels
        np.testing.assert_allclose(last, (box.x0, (box.y0 + box.y1) / 2), atol=4)
        assert same_color(lead.get_edgecolor(), color)
    far = plot.lines(xarray.DataArray(np.outer([1.0, 5.0], [1.0, 1.0]), dims=("m", "x")), by="m")
    assert not far.patches  # where labels stand at their lines there is nothing to lead to


def test_grey_words_give_way(rng):
    n = 2.0 ** np.arange(3, 10)
    errors = 3 * n ** -np.array([1.0, 1.02, 1.04, 2.0])[:, None]
    ax = plot.orders(errors, n, labels=list("abcd"), references=[-1, -1.01, -1.02, -1.03, -2])
    _apart(ax)
    assert len(ax.texts) == 9
    cost = 1 + np.array([0.0, 1e-6, -1e-6])[:, None] * np.ones(2)
    ax = plot.regret(cost, baseline=np.ones(2), labels=["left", "right", "middle"])
    _apart(ax)
    assert set(_boxes(ax)) == {"baseline", "left", "right", "middle"}


def test_draws_on_the_axes_it_is_given(rng):
    figure, (left, right) = plt.subplots(1, 2)
    assert plot.lines(_cost(rng)[0], over="seed", ax=left) is left
    assert plot.heatmap(rng.random((3, 4)), ax=right) is right
    assert len(plt.get_fignums()) == 1


# --- heatmap -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("best", ["min", "max"])
def test_heatmap_draws_the_values_and_marks_the_best(best, rng):
    data = xarray.DataArray(
        rng.random((3, 5)), dims=("omega", "rate"), name="seconds", attrs={"units": "s"},
        coords={"omega": ("omega", [1.0, 1.4, 1.8], {"long_name": "relaxation"}), "rate": np.geomspace(1e-3, 1, 5)},
    )  # fmt: skip
    data[0, 0] = np.nan
    ax = plot.heatmap(data, best=best, title="a title")
    np.testing.assert_array_equal(np.ma.filled(ax.collections[0].get_array(), np.nan), data.values)
    where = (data.argmin if best == "min" else data.argmax)(...)
    row, column = int(where["omega"]), int(where["rate"])
    for line in ax.get_lines():
        np.testing.assert_array_equal([line.get_xdata().min(), line.get_xdata().max()], [column, column + 1])
        np.testing.assert_array_equal([line.get_ydata().min(), line.get_ydata().max()], [row, row + 1])
    value, at = float(data[row, column]), data[row, column]
    word = "smallest" if best == "min" else "largest"
    expected = f"a title\n{word}: {value:.4g} at omega={float(at.omega):.4g}, rate={float(at.rate):.4g}"
    assert ax.get_title(loc="left") == expected
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("rate", "relaxation")
    assert ax.figure.axes[1].get_ylabel() == "seconds [s]"


def test_heatmap_transposes_and_takes_logarithms(rng):
    data = xarray.DataArray(np.array([[1.0, 10.0, 0.0], [-3.0, 1000.0, 5.0]]), dims=("a", "b"))
    ax = plot.heatmap(data, x="a", log=True)
    cells = ax.collections[0]
    np.testing.assert_array_equal(np.ma.filled(cells.get_array(), 0), [[1, 0], [10, 1000], [0, 5]])
    assert (cells.norm.vmin, cells.norm.vmax) == (1, 1000) and ax.get_xlabel() == "a"
    assert ax.get_title(loc="left") == "smallest: 1 at b=0, a=0"
    assert not plot.heatmap(data, best=None).get_lines()


# --- orders ------------------------------------------------------------------------------------------------


def test_orders_writes_the_true_slopes(rng):
    n = 2.0 ** np.arange(3, 10)
    true = np.array([-1.0, -2.5, -4.0])
    errors = 3 * n ** true[:, None]
    errors[1, 2], errors[2, -1], errors[0, 1] = np.nan, 0.0, np.inf
    ax = plot.orders(jnp.asarray(errors), n, labels=["a", "b", "c"], references=[-2, -2.5])
    assert sorted(_texts(ax)) == sorted(["a: slope −1.00", "b: slope −2.50", "c: slope −4.00", "−2", "−2.5"])
    drawn = ax.get_lines()[1]
    np.testing.assert_allclose(drawn.get_ydata(), np.delete(errors[1], 2), rtol=1e-6)
    for line, slope in zip(ax.get_lines()[3:], (-2, -2.5)):
        x, y = line.get_data()
        np.testing.assert_allclose(np.diff(np.log(y)) / np.diff(np.log(x)), slope, rtol=1e-9)
    assert ax.get_xscale() == ax.get_yscale() == "log"


def test_orders_from_a_data_array_with_a_floor():
    n = np.array([8, 16, 32, 64, 128, 256])
    data = xarray.DataArray(
        np.stack([n**-4.0 + 1e-7, 0.1 / n]), dims=("scheme", "size"), name="error",
        coords={"scheme": ["rk4", "euler"], "size": ("size", n, {"long_name": "steps"})},
    )  # fmt: skip
    ax = plot.orders(data, fit=(8, 16))
    fitted = np.log((16**-4.0 + 1e-7) / (8**-4.0 + 1e-7)) / np.log(2)
    assert f"rk4: slope {fitted:.2f}".replace("-", "−") in _texts(ax) and "euler: slope −1.00" in _texts(ax)
    assert {"−4", "−1"} <= set(_texts(ax)) and ax.get_xlabel() == "steps"
    assert _texts(plot.orders([1.0, np.nan], [1, 2])) == ["slope n/a"]


@pytest.mark.parametrize(
    ("errors", "order"),
    [
        (lambda n: n**-4.0 + 1e-9, 4.0),
        (lambda n: np.maximum(n**-8.0, 3e-16), 8.0),
        (lambda n: n**-2.0, 2.0),
        (lambda n: np.where(n < 100, n**-4.0, 1e-5 * n**-1.5), None),  # a slower order that goes on is no floor
        (lambda n: 1 / np.sqrt(n) * (1 + 0.2 * np.sin(7 * n)), None),  # nor is noise
    ],
)
def test_slopes_leave_the_floor_out(errors, order):
    n = 2.0 ** np.arange(2, 11)
    ax = plot.orders(errors(n), n)
    (told,) = [word for word in _texts(ax) if word.startswith("slope")]
    slope = float(told.removeprefix("slope ").replace("−", "-"))
    expected = np.polyfit(np.log(n), np.log(errors(n)), 1)[0] if order is None else -order
    assert abs(slope - expected) < (0.006 if order is None else 0.1)
    np.testing.assert_array_equal(ax.get_lines()[0].get_xdata(), n)  # all of them are drawn


def test_a_fall_to_the_floor_in_one_step_has_no_slope():
    assert _texts(plot.orders([1e-2, 1e-15, 1e-16, 2e-16], [1, 2, 4, 8])) == ["slope n/a"]


# --- regret ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["difference", "ratio"])
def test_regret_is_the_cumulative_cost_against_the_baseline_seed_by_seed(kind, rng):
    cost = _cost(rng)
    spent = cost.cumsum("round").values
    relative = spent - spent[0] if kind == "difference" else spent / spent[0]
    ax = plot.regret(cost, baseline="best", kind=kind)
    zero, b, c = ax.get_lines()
    np.testing.assert_allclose(zero.get_ydata(), [kind == "ratio"] * 2)
    np.testing.assert_allclose(b.get_ydata(), relative[1].mean(0), rtol=1e-12)
    np.testing.assert_allclose(_band(ax, 1), np.quantile(relative[2], [0.05, 0.95], axis=0), rtol=1e-12)
    colors = [line.get_color() for line in plot.lines(cost, over="seed", by="policy", x="round").get_lines()]
    assert [b.get_color(), c.get_color()] == colors[1:], "a policy looks the same in both figures"
    assert {"b", "c", "best"} == set(_texts(ax)) and "num iterations" in ax.get_ylabel()


def test_regret_against_outside_costs_and_with_missing_ones(rng):
    cost = _cost(rng, policies=2)
    outside = rng.random(15)
    cost[0, 3, 6] = np.nan
    ax = plot.regret(cost, baseline=outside)
    relative = np.cumsum(cost.values - outside, axis=-1)
    np.testing.assert_allclose(ax.get_lines()[1].get_ydata()[:6], relative[0].mean(0)[:6], rtol=1e-12)
    without = np.delete(relative[0], 3, axis=0).mean(0)
    np.testing.assert_allclose(ax.get_lines()[1].get_ydata()[6:], without[6:], rtol=1e-12)
    plain = plot.regret(cost.values[:, :4], baseline=1, labels=["x", "y"])
    np.testing.assert_array_equal(plain.get_lines()[1].get_xdata(), np.arange(1, 16))


# --- images ------------------------------------------------------------------------------------------------


def test_images_share_one_grey_scale_and_keep_their_aspect(rng):
    grey, wide = rng.random((4, 6)), np.float32(3 * rng.random((2, 8)))
    wide[0, 0] = np.nan
    color = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    axes = plot.images([grey, jnp.asarray(wide), color, rng.random((3, 3, 4)) * 1.5], titles=list("abcd"))
    shown = [ax.get_images()[0] for ax in axes]
    np.testing.assert_allclose(shown[0].get_array(), grey)
    limits = (min(grey.min(), np.nanmin(wide)), np.nanmax(wide))
    assert shown[0].get_clim() == shown[1].get_clim() == limits
    np.testing.assert_array_equal(shown[2].get_array(), color)
    assert shown[3].get_array().max() <= 1
    assert all(ax.get_aspect() == 1.0 for ax in axes) and [ax.get_title() for ax in axes] == list("abcd")
    assert len(axes[0].figure.axes) == 6 and not axes[0].figure.axes[5].axison


def test_images_from_a_stack_one_picture_and_given_axes(rng):
    assert len(plot.images(rng.random((5, 4, 6)), columns=5)) == 5
    assert len(plot.images(rng.random((4, 4)))) == len(plot.images(rng.random((4, 4, 3)))) == 1
    named = xarray.DataArray(rng.random((4, 4)), dims=("row", "col"), name="before")
    _, given = plt.subplots(1, 3)
    axes = plot.images([named, named], ax=given, limits=(0, 2))
    assert axes[0] is given[0] and len(axes) == 2 and axes[0].get_title() == "before"
    assert axes[1].get_images()[0].get_clim() == (0, 2)


# --- readable, and loaded on demand ------------------------------------------------------------------------


def test_new_figures_are_900_pixels_wide_with_legible_text(rng):
    ax = plot.lines(_cost(rng), over="seed", by="policy", x="round")
    assert ax.figure.get_figwidth() * ax.figure.dpi == pytest.approx(900)
    sizes = [t.get_fontsize() for t in (ax.xaxis.label, *ax.texts, *ax.get_xticklabels())]
    assert min(sizes) * ax.figure.dpi / 72 >= 15, "at least 15 pixels high"


def test_neighbouring_colours_differ_for_all_eyes():
    from jaxsci.plot import _style

    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in _style.COLORS])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    # Machado, Oliveira and Fernandes 2009, table 1, severity 1: protanopia, deuteranopia, tritanopia.
    matrices = np.array(
        [
            [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
            [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
            [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
        ]
    )
    for seen in (linear, *(linear @ m.T for m in matrices)):
        distance = np.linalg.norm(seen[:, None] - seen[None], axis=-1) + 9 * np.eye(len(seen))
        assert distance.min() > 0.1


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    for name in ("matplotlib", "matplotlib.pyplot", "matplotlib.colors"):
        monkeypatch.setitem(sys.modules, name, None)
    square = np.eye(2)
    calls = (
        lambda: plot.lines(square[0]), lambda: plot.heatmap(square), lambda: plot.orders(square, [1, 2]),
        lambda: plot.regret(square, baseline=0), lambda: plot.images([square]),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(ImportError, match=r"plot\.\w+ needs 'matplotlib.*pip install 'jaxsci\[plot\]'"):
            call()


# --- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda d: plot.lines(d), ValueError, r"dimensions \['policy', 'seed'\] are not used exactly once"),
        (lambda d: plot.lines(d, over="sede", by="policy"), ValueError, r"no dimension 'sede'; the array has"),
        (lambda d: plot.lines(d, over="seed", by="policy", band="iqr"), ValueError, "band must be one of .* got 'iqr'"),
        (lambda d: plot.lines(d, over="seed", log="z"), ValueError, "log must be .* got 'z'"),
        (lambda d: plot.lines(np.ones((2, 2))), ValueError, r"shape \(2, 2\) needs 2 names of axes, got \['x'\]"),
        (lambda d: plot.lines(d.to_dataset(name="cost")), TypeError, r"got a Dataset; take one of \['cost'\]"),
        (lambda d: plot.lines(np.ones(3) * 1j), TypeError, "expected real numbers, got dtype complex128"),
        (lambda d: plot.lines(np.ones(0)), ValueError, r"nothing to draw, the array has shape \(0,\)"),
        (lambda d: plot.heatmap(d), ValueError, "expected two dimensions"),
        (lambda d: plot.heatmap(d[0], best="low"), ValueError, "best must be 'min', 'max' or None, got 'low'"),
        (lambda d: plot.heatmap(np.full((2, 2), np.nan)), ValueError, "no finite value to draw"),
        (lambda d: plot.heatmap(-np.ones((2, 2)), log=True), ValueError, "no finite positive value"),
        (lambda d: plot.orders(np.ones(3)), ValueError, "needs the sizes n"),
        (lambda d: plot.orders(np.ones(3), np.arange(3)), ValueError, "sizes must be positive"),
        (lambda d: plot.orders(np.ones(3), np.ones(4)), ValueError, r"n must hold 3 sizes, got shape \(4,\)"),
        (lambda d: plot.orders(np.zeros(3), [1, 2, 3]), ValueError, "no positive finite error"),
        (lambda d: plot.orders(np.ones((2, 3)), [1, 2, 3], labels=["a"]), ValueError, "expected 2 labels, got 1"),
        (lambda d: plot.regret(d, baseline="nobody"), ValueError, r"no policy 'nobody' to be the baseline; there are"),
        (lambda d: plot.regret(d, baseline=np.ones(4)), ValueError, r"shape \(15,\) or \(20, 15\), got \(4,\)"),
        (lambda d: plot.regret(d, baseline="best", kind="log"), ValueError, "kind must be one of"),
        (lambda d: plot.images([]), ValueError, "no picture"),
        (lambda d: plot.images([np.ones((2, 2, 2))]), ValueError, r"picture 0: expected \(rows, columns\) or"),
        (lambda d: plot.images([np.ones((2, 2))], titles=["a", "b"]), ValueError, "expected 1 titles, got 2"),
        (lambda d: plot.images([np.ones((2, 2))] * 2, ax=plt.gca()), ValueError, "2 pictures need as many Axes, got 1"),
    ],
)
def test_bad_input_is_named(call, error, match, rng):
    with pytest.raises(error, match=match):
        call(_cost(rng))


def test_a_labelled_baseline_is_matched_by_name():
    cost = xarray.DataArray(np.arange(18.0).reshape(2, 3, 3), dims=("policy", "key", "round"))
    baseline = xarray.DataArray(np.arange(9.0).reshape(3, 3) ** 2, dims=("key", "round"))
    drawn = [plot.regret(cost, baseline=b, over="key").get_lines() for b in (baseline, baseline.T)]
    assert len(drawn[0]) == len(drawn[1]) > 1
    for one, other in zip(*drawn):
        np.testing.assert_array_equal(one.get_ydata(), other.get_ydata())


def test_repetitions_are_all_other_dimensions(rng):
    """A sweep calls them `key`; there may be several, or none."""
    values = rng.random((2, 3, 4, 5))
    cost = xarray.DataArray(values, dims=("policy", "key", "noise", "round"), name="cost")
    ax = plot.regret(cost, baseline=np.zeros(5))
    np.testing.assert_allclose(ax.get_lines()[1].get_ydata(), np.cumsum(values[0], -1).mean((0, 1)), rtol=1e-12)
    assert "over key, noise" in ax.get_ylabel()
    ax = plot.regret(cost[:, 0, 0], baseline=np.zeros(5))
    assert "over" not in ax.get_ylabel()
    with pytest.raises(ValueError, match="dimensions .'noise'. are not used"):
        plot.regret(cost, baseline=np.zeros(5), over="key")


def test_lines_are_labelled_over_dates(tmp_path):
    days = np.arange("2026-01-01", "2026-01-05", dtype="datetime64[D]").astype("datetime64[ns]")
    data = xarray.DataArray(np.eye(2, 4), {"day": days, "name": ["a", "b"]}, dims=("name", "day"))
    plot.lines(data, x="day", by="name").figure.savefig(tmp_path / "dates.png")
    assert (tmp_path / "dates.png").stat().st_size > 0
