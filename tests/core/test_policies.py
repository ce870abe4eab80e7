"""Keys of rounds: the formula is part of every published figure, so it is written out here once more."""

import jax
import jax.numpy as jnp
import pytest

from jaxsci import bandits
from jaxsci.core import policies


def _same(a, b):
    return bool(jnp.all(jax.random.key_data(a) == jax.random.key_data(b)))


def test_keys_of_rounds_are_the_documented_folds(key):
    fold = jax.random.fold_in
    for purpose, start, inside in (("policy", 0xFFFF_FFFF, 1), ("stream", 0xFFFF_FFFE, 0)):
        assert _same(policies.round_key(key, purpose), fold(key, start))
        assert _same(policies.round_key(key, purpose, jnp.int32(7)), fold(fold(key, 7), inside))


@pytest.mark.bad_input
def test_static_misuse_raises(key):
    with pytest.raises(ValueError, match="purpose must be one of"):
        policies.round_key(key, "method")
    with pytest.raises(TypeError, match="typed key"):
        policies.round_key(0, "policy")


@pytest.mark.bad_input
def test_imaginary_parts_are_not_lost(key):
    policy = bandits.policies.lin_ucb(2, 3)
    state = policy.init(key)
    decision = policy.select(key, state, jnp.ones(3))
    for call, match in (
        (lambda: policy.update(state, decision, 0.5 + 0.5j, jnp.ones(3)), "expected real numbers"),
        (lambda: policy.update(state, decision, 0.5, jnp.ones(3), 1j), "expected real numbers"),
        (lambda: policy.select(key, state, 1j * jnp.ones(3)), "context: expected real numbers"),
        (lambda: policies.as_context("made", 1j, ()), "made: context: expected real numbers"),
    ):
        with pytest.raises(TypeError, match=match):
            call()
