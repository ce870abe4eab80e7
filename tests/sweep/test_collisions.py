"""Names that would collide in the Dataset are refused before any point is computed."""

import jax.numpy as jnp
import pytest
import xarray

from jaxsci import check, sweep
from jaxsci.core import status

X = sweep.product(x=[1.0, 2.0])


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("point", "space", "dims", "match"),
    [
        (lambda x: {"t": x + jnp.arange(3.0)}, X, {"t": ("t",)}, "'t' of output 't' has the name of an output"),
        (lambda x: {"t": jnp.zeros(3), "u": x}, X, {"t": ("u",)}, "has the name of an output"),
        (lambda x: {"t": x + jnp.zeros(3)}, X, {"t": ("status",)}, "'status' of output 't' has the name of an output"),
        (lambda x: {"y": x + jnp.zeros(3), "y_0": x}, X, None, r"'y_0' of output 'y' .*dims=\{'y'"),
        (lambda value_0: value_0 + jnp.zeros(3), sweep.product(value_0=[1.0, 2.0]), None, "'value_0' of output"),
        (lambda x: x + jnp.zeros((3, 3)), X, {"value": ("r", "r")}, "another dimension of it"),
        (lambda x: {"status": x, "y": x}, X, None, "output 'status' is float32|output 'status' is float64"),
        (lambda x: {"status": x > 1, "y": x}, X, None, "output 'status' is bool"),
    ],
)
@pytest.mark.parametrize("batch", ["vmap", "loop"])
def test_outputs_that_collide(point, space, dims, match, batch):
    with pytest.raises(ValueError, match=match):
        sweep.run(point, space, dims=dims, batch=batch, progress=False)


@pytest.mark.bad_input
def test_axes_that_collide():
    with pytest.raises(ValueError, match="'b' is the name of a dimension and of a coordinate along 'a'"):
        sweep.product(sweep.zip(a=[1.0, 2.0], b=[1.0, 2.0]), b=sweep.zip(c=[1.0, 2.0], e=[1.0, 2.0]))
    with pytest.raises(ValueError, match="dims must be different"):
        sweep.stack({("u", "v"): 1.0, ("u", "w"): 2.0}, dims=("k", "k"))
    with pytest.raises(ValueError, match="without /"):
        sweep.product(**{"a/b": [1.0]})
    with pytest.raises(ValueError, match="positive, got -1"):
        sweep.keys(-1)


def test_check_names_every_zipped_coordinate():
    ds = sweep.run(
        lambda a, b: {"y": a, "status": status.flag(b > 0, status.DIVERGED)},
        sweep.product(pair=sweep.zip(a=[1.0, 2.0], b=[0.0, 5.0])),
        progress=False,
    )
    with pytest.raises(status.StatusError, match=r"a=2\.0, b=5\.0: diverged"):
        check(ds)
    with pytest.raises(status.StatusError, match=r"k=1: diverged"):
        check(xarray.Dataset({"status": ("k", [0, int(status.DIVERGED)])}))
