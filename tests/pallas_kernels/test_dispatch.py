"""The choice of an implementation: what a name promises, what is refused and where."""

import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import pytest

import ladder
from pallas_kernels import _compat, _dispatch, extrema
from pallas_kernels.extrema import gpu, tpu

X = jax.ShapeDtypeStruct((1000,), jnp.float32)


def test_none_is_the_reference_on_cpu_and_the_kernel_elsewhere():
    for platform in ("cpu", *ladder.PLATFORMS):
        ladder.check_lowers(extrema, (X,), platform)


def test_a_platform_without_kernels_gets_the_reference():
    ladder.check_lowers(extrema, (X,), "rocm")


@pytest.mark.parametrize("implementation", ["reference", "interpret"])
def test_these_names_lower_without_a_compiled_kernel(implementation):
    for platform in ("cpu", *ladder.PLATFORMS):
        text = ladder.lowered_text(lambda x: extrema(x, implementation=implementation), (X,), platform)
        assert not any(kernel in text for kernel in ladder.KERNEL_TEXT.values())


@pytest.mark.parametrize(("name", "platform"), [("tpu", "tpu"), ("gpu", "cuda")])
def test_a_named_kernel_lowers_for_its_platform_and_raises_for_others(name, platform):
    def named(x):
        return extrema(x, implementation=name)

    ladder.check_lowers(named, (X,), platform)
    for transformed, spec in (
        (named, X),
        (jax.vmap(named), jax.ShapeDtypeStruct((3, 1000), jnp.float32)),
        (jax.grad(lambda x: named(x)[0]), X),
    ):
        for other in {"cpu", *ladder.PLATFORMS} - {platform}:
            with pytest.raises(ValueError, match=f"implementation='{name}' compiles for {platform} alone"):
                ladder.lowered_text(transformed, (spec,), other)


@pytest.mark.bad_input
@pytest.mark.parametrize(("name", "instead"), [("tpu", "tpu_interpret"), ("gpu", "interpret")])
def test_a_named_kernel_on_cpu_says_what_would_work(name, instead):
    with pytest.raises(ValueError, match=f"lowered for another platform.*'{instead}'"):
        extrema(jnp.arange(3.0), implementation=name)
    with pytest.raises(ValueError, match="another platform"):
        jax.jit(jax.vmap(lambda x: extrema(x, implementation=name)))(jnp.ones((2, 3)))


@pytest.mark.bad_input
def test_an_unknown_name_raises_and_lists_the_names():
    with pytest.raises(ValueError, match="got 'cuda'") as error:
        extrema(jnp.arange(3.0), implementation="cuda")
    assert all(repr(name) in str(error.value) for name in _dispatch.IMPLEMENTATIONS)


@pytest.mark.bad_input
@pytest.mark.x64
@pytest.mark.parametrize("name", ["tpu", "tpu_interpret"])
def test_a_refused_dtype_raises_by_name_and_is_the_reference_by_none(name):
    x = jnp.arange(3.0, dtype=jnp.float64)
    with pytest.raises(ValueError, match="float64.*no double precision.*implementation=None"):
        extrema(x, implementation=name)
    for platform in ("tpu", "cpu"):
        text = ladder.lowered_text(extrema, (jax.ShapeDtypeStruct((3,), jnp.float64),), platform)
        assert not any(kernel in text for kernel in ladder.KERNEL_TEXT.values())
    ladder.check_lowers(extrema, (jax.ShapeDtypeStruct((3,), jnp.float64),), "cuda")


@pytest.mark.bad_input
@pytest.mark.parametrize("dtype", ["float16", "int8", "uint32"])
def test_dtypes_without_a_kernel(dtype):
    x = jnp.array([3, 1, 2], dtype)
    for name in ("tpu", "gpu", "interpret", "tpu_interpret"):
        with pytest.raises(ValueError, match=f"x is {dtype} and the"):
            extrema(x, implementation=name)
    ladder.assert_same(extrema(x), (x[1], x[0]))
    assert gpu.refusal(jax.ShapeDtypeStruct((2**30 + 1,), jnp.float32)) is not None
    assert tpu.refusal(X) is None and gpu.refusal(X) is None


def test_without_the_triton_backend_the_reference_takes_over(monkeypatch):
    monkeypatch.setattr(_compat, "plgpu", None)
    x = jnp.arange(41.0)
    with pytest.raises(ValueError, match="no Pallas Triton backend"):
        extrema(x, implementation="interpret")
    text = ladder.lowered_text(extrema, (jax.ShapeDtypeStruct((41,), jnp.float32),), "cuda")
    assert _compat.GPU_TARGET not in text
    ladder.assert_same(extrema(x), (x[0], x[-1]))


def test_the_notice_on_triton_is_the_only_warning_of_lowering():
    device = jax.sharding.AbstractDevice("NVIDIA H200", 132, "gpu")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((1,), ("d",), abstract_device=device)):
            jax.jit(extrema).trace(X).lower(lowering_platforms=("cuda",))
    assert all(str(w.message).startswith(_compat.TRITON_NOTICE) for w in caught), [str(w.message) for w in caught]


def test_importing_the_package_does_not_import_pallas():
    code = "import sys, pallas_kernels; sys.exit('jax.experimental.pallas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
