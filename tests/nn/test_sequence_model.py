"""A decoder one token after the other: the logits of a causal pass, under jit, vmap and scan, up to the last row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import quantization
from jaxsci.core import status
from jaxsci.nn import attention, layers, transformer

NUM_SYMBOLS, LENGTH = 11, 6
CONFIGS = {
    "rotary": transformer.config(
        16, 2, 4, num_groups=2, norm="rms", positions="rotary", activation="swiglu", bias=False, hidden=24
    ),
    "learned": transformer.config(16, 1, 2, positions="learned", max_length=9, order="post"),
}
TOKENS = np.random.default_rng(0).integers(0, NUM_SYMBOLS, (3, LENGTH)).astype(np.int32)
# Weights alone: one ulp of an input can move it across the border of two of its own levels.
QUANTISED = quantization.dense({"head": None, "*": quantization.quest(2, block=8)})
PROMPTS = {"rotary": (0, 1, 4, LENGTH), "learned": (0, 4), "quantised": (4,)}


def parameters(cfg):
    """Fresh ones with embedding and head."""
    rng = np.random.default_rng(1)
    table, kernel, bias = (
        rng.normal(size=shape).astype(np.float32) for shape in ((NUM_SYMBOLS, 16), (16, NUM_SYMBOLS), (NUM_SYMBOLS,))
    )
    params = transformer.init(jax.random.key(0), cfg, kind="torch", dtype="float32")
    return params | {"embedding": table, "head": {"kernel": kernel, "bias": bias}}


def make(cfg, params, dense):
    return transformer.sequence_model(params, cfg, max_length=LENGTH, dense=dense)


def whole(cfg, params, tokens, dense):
    """Logits behind every token by one causal pass."""
    mask = attention.causal_mask(len(tokens))
    h = transformer.apply(params, cfg, jnp.asarray(params["embedding"])[tokens], mask=mask, dense=dense)
    return layers.affine("head", h, params["head"]["kernel"], params["head"]["bias"])


def stepwise(cfg, params, tokens, num_prompt, dense):
    """Logits behind the prompt and behind every later token, by a scan."""
    model = make(cfg, params, dense)
    state = model.init(tokens[:num_prompt])

    def step(state, token):
        state = model.advance(state, token)
        return state, model.logits(state)

    last, after = jax.lax.scan(step, state, tokens[num_prompt:])
    return jnp.concatenate([model.logits(state)[None], after]), last.cache.length, last.status


@pytest.fixture(scope="module", params=[*CONFIGS, "quantised"])
def case(request):
    """One configuration, with all prompts' lengths in one program."""
    cfg = CONFIGS.get(request.param, CONFIGS["rotary"])
    dense = QUANTISED if request.param == "quantised" else layers.affine
    params = parameters(cfg)

    def run(tokens):
        found = {n: stepwise(cfg, params, tokens, n, dense) for n in PROMPTS[request.param]}
        return whole(cfg, params, tokens, dense), found

    return jax.device_get(jax.jit(jax.vmap(run))(TOKENS))


def test_cached_and_uncached_logits_agree(case):
    expected, found = case
    for num_prompt, (logits, length, bits) in found.items():
        first = max(num_prompt, 1)
        np.testing.assert_allclose(logits[:, first - num_prompt :], expected[:, first - 1 :], rtol=1e-5, atol=1e-5)
        assert (length == LENGTH).all() and not bits.any()


def test_an_empty_prompt_favours_no_token():
    state = MODEL.init(np.zeros(0, np.int32))
    assert state.logits.shape == (NUM_SYMBOLS,) and not np.any(state.logits) and int(state.cache.length) == 0


CFG = CONFIGS["rotary"]
PARAMS = parameters(CFG)
MODEL = make(CFG, PARAMS, layers.affine)
begin = jax.jit(MODEL.init)
advance = jax.jit(MODEL.advance)


def test_past_the_end_nothing_changes_but_the_status():
    full = begin(TOKENS[0])
    after = advance(full, jnp.int32(1))
    assert int(after.status) == status.OUT_OF_RANGE and int(full.status) == 0
    jax.tree.map(np.testing.assert_array_equal, after._replace(status=0), full._replace(status=0))
    again = advance(after, jnp.int32(2))
    assert int(again.status) == status.OUT_OF_RANGE and int(again.cache.length) == LENGTH


def test_a_token_that_is_no_symbol_is_refused():
    state = begin(TOKENS[0, :4])
    for token in (-1, NUM_SYMBOLS):
        after = advance(state, jnp.int32(token))
        assert int(after.status) == status.OUT_OF_RANGE and int(after.cache.length) == 4
        np.testing.assert_array_equal(after.logits, state.logits)
    assert int(begin(jnp.array([0, 1, 2, NUM_SYMBOLS])).status) == status.OUT_OF_RANGE


def test_a_cloud_of_states_is_permuted_leaf_by_leaf():
    """What resampling does to particles: the state of a copy goes on as the original would have."""
    cloud = jax.jit(jax.vmap(MODEL.init))(TOKENS[:, :4])
    moved = jax.tree.map(lambda a: a[np.array([2, 2, 0])], cloud)
    after = jax.jit(jax.vmap(MODEL.advance))(moved, TOKENS[[2, 2, 0], 4])
    expected = advance(begin(TOKENS[2, :4]), TOKENS[2, 4])
    np.testing.assert_allclose(after.logits[:2], np.stack([expected.logits] * 2), rtol=1e-5, atol=1e-5)
    assert {a.shape[0] for a in jax.tree.leaves(cloud)} == {3}


def test_the_model_is_a_pytree_whose_leaves_are_the_parameters():
    traced = []

    @jax.jit
    def logits(model, state, token):
        traced.append(None)
        return model.logits(model.advance(state, token))

    state = begin(TOKENS[0, :4])
    one = logits(MODEL, state, jnp.int32(3))
    other = make(CFG, jax.tree.map(lambda a: 2 * a, PARAMS), layers.affine)
    two = logits(other, state, jnp.int32(3))
    assert len(traced) == 1 and not np.allclose(one, two)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: MODEL.init(np.zeros(LENGTH + 1, np.int32)), "at most 6 tokens"),
        (lambda: MODEL.init(np.zeros((2, 3), np.int32)), "one sequence of integers"),
        (lambda: MODEL.init(np.zeros(3, np.float32)), "one sequence of integers"),
        (lambda: transformer.sequence_model(PARAMS, CFG), "give max_length"),
        (lambda: transformer.sequence_model(PARAMS, CFG, max_length=0), "max_length must be an int >= 1"),
        (lambda: transformer.sequence_model({"head": 0}, CFG, max_length=3), "entry 'embedding'"),
        (lambda: transformer.sequence_model(PARAMS, CONFIGS["learned"], max_length=10), "9 learned positions"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
