"""Our methods as solvers of lineax, diffrax and optimistix; their operators as ours."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import linear

lx = pytest.importorskip("lineax")
M, to_lineax, from_lineax = linear.methods, linear.interop.to_lineax, linear.interop.from_lineax
SHAPE, SIZE = (3, 4), 12
LOW, HIGH = (4.3 + sign * 2 * (np.cos(np.pi / 4) + np.cos(np.pi / 5)) for sign in (-1, 1))
METHODS = {
    "jacobi": M.jacobi(),
    "sor": M.sor(1.2),
    "ssor_pcg": M.ssor_pcg(1.2),
    "chebyshev": M.chebyshev(LOW, HIGH),
}


def matrix():
    op = linear.operators.shifted_laplacian(SHAPE, 0.3)
    return jax.vmap(op.mv)(jnp.eye(SIZE).reshape(SIZE, *SHAPE)).reshape(SIZE, SIZE)


def function_of(a, *tags):
    return lx.FunctionLinearOperator(lambda x: a @ x, jax.ShapeDtypeStruct((SIZE,), a.dtype), tags)


@pytest.mark.x64
@pytest.mark.parametrize("name", METHODS)
def test_solves_counts_and_reports(name, key):
    a, b = matrix(), jax.random.normal(key, (SIZE,))
    found = lx.linear_solve(lx.MatrixLinearOperator(a), b, to_lineax(METHODS[name], tol=1e-10))
    np.testing.assert_allclose(found.value, np.linalg.solve(a, b), atol=1e-9)
    assert int(found.stats["status"]) == 0 and int(found.stats["num_steps"]) > 1
    if name == "sor":
        ours = linear.solve(linear.operators.dense(a), b, method=METHODS[name], tol=1e-10)
        assert int(found.stats["num_steps"]) == int(ours.steps)
    assert bool(found.result == lx.RESULTS.successful)
    assert float(found.stats["residual"]) <= 1e-10 * float(jnp.linalg.norm(b))


@pytest.mark.x64
def test_trouble_is_a_result(key):
    a, b = matrix(), jax.random.normal(key, (SIZE,))

    def result(solver, b=b):
        return lx.linear_solve(lx.MatrixLinearOperator(a), b, solver, throw=False).result

    assert bool(result(to_lineax(M.sor(1.2), max_steps=2)) == lx.RESULTS.max_steps_reached)
    assert bool(result(to_lineax(M.sor(2.2))) == lx.RESULTS.breakdown)
    assert bool(result(to_lineax(M.sor(1.2), tol=1e-30)) == lx.RESULTS.stagnation)
    assert bool(result(to_lineax(M.sor(1.2)), b * jnp.nan) == lx.RESULTS.nonfinite_input)
    with pytest.raises(Exception, match="maximum number of solver steps"):
        lx.linear_solve(lx.MatrixLinearOperator(a), b, to_lineax(M.sor(1.2), max_steps=2))


@pytest.mark.x64
def test_first_iterate_and_negative_definite(key):
    """y0 is the first iterate; -A, as implicit steps have it, is solved as A by conjugate gradients too."""
    a, b = matrix(), jax.random.normal(key, (SIZE,))
    exact = jnp.linalg.solve(a, b)
    solver = to_lineax(M.ssor_pcg(1.2), tol=1e-8)
    warm = lx.linear_solve(lx.MatrixLinearOperator(a), b, solver, options={"y0": exact})
    assert int(warm.stats["num_steps"]) == 0
    minus = lx.linear_solve(lx.MatrixLinearOperator(-a), b, solver)
    np.testing.assert_allclose(minus.value, -exact, atol=1e-7)


@pytest.mark.x64
def test_under_jit_vmap_and_grad(key):
    a = matrix() + 0.1 * jnp.diag(jnp.ones(SIZE - 1), 1)  # not symmetric: the transposed solve differs
    bs = jax.random.normal(key, (3, SIZE))
    solver = to_lineax(M.sor(1.1), tol=1e-13)

    def loss(a, b):
        found = lx.linear_solve(lx.MatrixLinearOperator(a), b, solver)
        return jnp.sum(jnp.sin(found.value)), found.stats["num_steps"]

    def direct(a, b):
        return jnp.sum(jnp.sin(jnp.linalg.solve(a, b)))

    slopes, steps = jax.jit(jax.vmap(jax.grad(loss, (0, 1), has_aux=True), (None, 0)))(a, bs)
    expected = jax.vmap(jax.grad(direct, (0, 1)), (None, 0))(a, bs)
    chex.assert_trees_all_close(slopes, expected, rtol=1e-7, atol=1e-10)
    alone = [int(loss(a, b)[1]) for b in bs]
    assert steps.tolist() == alone and min(alone) > 1


@pytest.mark.x64
def test_operators_of_every_kind(key):
    a = matrix()
    keys = jax.random.split(key, 4)
    main, below, above = (jax.random.normal(k, (n,)) for k, n in zip(keys, (SIZE, SIZE - 1, SIZE - 1)))
    x = jax.random.normal(keys[3], (SIZE,))
    tagged = lx.TaggedLinearOperator(lx.MatrixLinearOperator(a), lx.symmetric_tag)
    kinds = {
        "Dense": [lx.MatrixLinearOperator(a), tagged],
        "Banded": [lx.DiagonalLinearOperator(main), lx.TridiagonalLinearOperator(main, below, above)],
        "_Function": [
            function_of(a),
            lx.MatrixLinearOperator(a) + 2 * lx.DiagonalLinearOperator(main),
            lx.JacobianLinearOperator(lambda y, _: a @ jnp.sin(y), x),
        ],
    }
    for name, members in kinds.items():
        for theirs in members:
            ours = from_lineax(theirs)
            assert type(ours).__name__ == name
            np.testing.assert_allclose(ours.mv(x), theirs.mv(x), atol=1e-12)
            np.testing.assert_allclose(ours.transpose.mv(x), theirs.T.mv(x), atol=1e-12)
            np.testing.assert_allclose(ours.diagonal, jnp.diagonal(theirs.as_matrix()), atol=1e-12)
    assert from_lineax(tagged).symmetric and not from_lineax(lx.MatrixLinearOperator(a)).symmetric


@pytest.mark.x64
def test_functions_need_no_matrix_and_sweeps_say_that_they_do(key):
    a, b = matrix(), jax.random.normal(key, (SIZE,))
    theirs = function_of(a, lx.symmetric_tag)
    found = lx.linear_solve(theirs, b, to_lineax(M.chebyshev(LOW, HIGH), tol=1e-9))
    np.testing.assert_allclose(found.value, jnp.linalg.solve(a, b), atol=1e-8)
    with pytest.raises(ValueError, match="materialise=True"):
        lx.linear_solve(theirs, b, to_lineax(M.sor(1.2)))
    written = lx.linear_solve(theirs, b, to_lineax(M.sor(1.2), tol=1e-9, materialise=True))
    np.testing.assert_allclose(written.value, found.value, atol=1e-8)


@pytest.mark.x64
def test_pytrees_are_vectors():
    like = {"a": jax.ShapeDtypeStruct((2,), float), "b": jax.ShapeDtypeStruct((2, 2), float)}
    theirs = lx.FunctionLinearOperator(lambda x: {"a": 2 * x["a"], "b": 4 * x["b"]}, like, lx.symmetric_tag)
    found = lx.linear_solve(theirs, {"a": jnp.ones(2), "b": jnp.ones((2, 2))}, to_lineax(M.cg()))
    np.testing.assert_allclose(found.value["a"], 0.5, rtol=1e-6)
    np.testing.assert_allclose(found.value["b"], 0.25, rtol=1e-6)


@pytest.mark.x64
def test_shapes_inside_are_as_documented():
    """Functions keep the shape of their one array; diagonals and matrices act on vectors; users see no difference."""
    like = jax.ShapeDtypeStruct((2, 3), float)
    function = lx.FunctionLinearOperator(lambda x: 2 * x, like, lx.symmetric_tag)
    identity = lx.IdentityLinearOperator(like)
    assert from_lineax(function).diagonal.shape == (2, 3)
    assert from_lineax(function, materialise=True).diagonal.shape == from_lineax(identity).diagonal.shape == (6,)
    b = jnp.arange(6.0).reshape(2, 3)
    for theirs, factor in ((function, 2), (identity, 1)):
        np.testing.assert_allclose(lx.linear_solve(theirs, b, to_lineax(M.cg())).value, b / factor, rtol=1e-6)


@pytest.mark.x64
def test_inside_newton_of_optimistix(key):
    optx = pytest.importorskip("optimistix")
    a, b = matrix(), jax.random.normal(key, (SIZE,))

    def residual(y, scale):
        return a @ y + scale * y**3 - b

    newton = optx.Newton(rtol=1e-9, atol=1e-9, linear_solver=to_lineax(M.ssor_pcg(1.1), tol=1e-10, materialise=True))

    def root(scale):
        return optx.root_find(residual, newton, jnp.zeros(SIZE), scale).value

    y = root(1.0)
    np.testing.assert_allclose(residual(y, 1.0), 0, atol=1e-9)


@pytest.mark.x64
@pytest.mark.parametrize("name", [pytest.param("sor", marks=pytest.mark.slow), "cg"])
def test_inside_an_implicit_step_of_diffrax(name, key):
    diffrax = pytest.importorskip("diffrax")
    a, y0 = matrix(), jax.random.normal(key, (SIZE,))
    method, materialise = (M.sor(1.1), True) if name == "sor" else (M.cg(), False)
    root_finder = diffrax.VeryChord(
        rtol=1e-8, atol=1e-10, linear_solver=to_lineax(method, tol=1e-10, materialise=materialise)
    )
    found = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: -(a @ y)),
        diffrax.ImplicitEuler(root_finder=root_finder),
        0.0,
        0.4,
        0.1,
        y0,
        stepsize_controller=diffrax.ConstantStepSize(),
    )
    expected = np.asarray(y0)
    for _ in range(4):
        expected = np.linalg.solve(np.eye(SIZE) + 0.1 * np.asarray(a), expected)
    np.testing.assert_allclose(found.ys[0], expected, atol=1e-8)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: from_lineax(lx.MatrixLinearOperator(jnp.ones((2, 3)))), "square"),
        (lambda: from_lineax(lx.MatrixLinearOperator(jnp.eye(2, dtype=jnp.complex64))), "real"),
        (
            lambda: lx.linear_solve(
                lx.MatrixLinearOperator(jnp.eye(2)),
                jnp.ones(2),
                to_lineax(M.cg()),
                options={"preconditioner": lx.IdentityLinearOperator(jax.ShapeDtypeStruct((2,), jnp.float32))},
            ),
            "linear.methods.pcg",
        ),
    ],
)
def test_misuse_raises(call, match):
    with pytest.raises(ValueError, match=match):
        call()
