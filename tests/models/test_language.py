"""The decoder of Python's own documentation: text, causality, what few bits mean for it, lanes of a sweep."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import quantization, sweep
from jaxsci.models import language
from jaxsci.models.language import __main__ as cli
from jaxsci.nn import transformer

CFG = language.config(width=16, num_layers=1, num_heads=2, hidden=16, context=8)
OPTIONS = {"cfg": CFG, "num_steps": 6, "batch_size": 4, "num_windows": 4}
FORMATS = {
    "W2A2 quest": quantization.quest(2, 2, block=16),
    "W1A1 clip": quantization.quest(1, 1, block=16, estimator="clip", clip_scale=1.3),
    "W2A2 ste": quantization.quest(2, 2, block=16, estimator="ste"),
}


def parameters(cfg=CFG):
    return jax.device_get(language.init(jax.random.key(3), cfg))


# --- text, loss, network ------------------------------------------------------------------------------------


def test_the_text_is_all_there():
    from pydoc_data.topics import topics

    text = language.data()
    joined = "\n".join(topics[name] for name in sorted(topics))
    assert len(text.train) + len(text.validation) == len(joined)
    assert len(text.train) == math.floor(0.9 * len(joined))
    again = language.decode(text.train) + language.decode(text.validation)
    assert again == "".join(c if c.isascii() else "?" for c in joined)
    assert list(text.symbols) == sorted(set(again))


def test_a_network_that_knows_nothing_pays_the_logarithm_of_the_symbols():
    params = parameters()
    params["head"] = {"kernel": np.zeros_like(params["head"]["kernel"]), "bias": None}
    value = language.validation_loss(params, CFG, num_windows=4)
    np.testing.assert_allclose(value, math.log(len(language.data().symbols)), rtol=1e-6)


def test_sizes_and_parts_of_the_default():
    cfg = language.config()
    shapes = jax.eval_shape(lambda key: language.init(key, cfg), jax.random.key(0))
    blocks = [shapes[f"layer_{i}"] for i in range(2)]
    assert sum(a.size for a in jax.tree.leaves(blocks) if a.ndim == 2) == 425_984
    assert cfg.positions == "rotary" and "positions" not in shapes
    learned = language.config(positions="learned")
    assert jax.eval_shape(lambda key: language.init(key, learned), jax.random.key(0))["positions"].shape == (64, 128)


# --- training -----------------------------------------------------------------------------------------------


def test_lanes_of_a_sweep_are_single_runs(tmp_path):
    """Bits, estimators and seeds are one program; a lane of it is what the run alone gives."""
    space = sweep.product(spec=sweep.stack(FORMATS, dims=("format",)), key=sweep.keys(2))
    ds = sweep.run(lambda key, spec: language.point(key, spec, **OPTIONS), space, dims={"loss": ("step",)})
    assert ds.loss.shape == (3, 2, 6) and not ds.status.any() and np.isfinite(ds.loss).all()
    alone = language.train(jax.random.key(1), FORMATS["W1A1 clip"], progress=False, **OPTIONS)
    lane = ds.sel(format="W1A1 clip").isel(key=1)
    np.testing.assert_allclose(alone.history, lane.loss, rtol=2e-3)
    np.testing.assert_allclose(alone.validation, lane.validation, rtol=2e-3)
    # equal forward passes at the first step, other gradients, so other losses after some steps
    quest, ste = (ds.sel(format=name).isel(key=0).loss.values for name in ("W2A2 quest", "W2A2 ste"))
    assert quest[0] == ste[0] and (quest != ste)[2:].any()
    packed = quantization.pack_params(alone.value, language.rules(FORMATS["W1A1 clip"]))
    value = language.validation_loss(packed, CFG, spec=FORMATS["W1A1 clip"], num_windows=4)
    np.testing.assert_allclose(value, alone.validation, rtol=1e-5)


@pytest.mark.full
def test_the_command_line_trains_packs_and_writes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli.language, "config", lambda positions: CFG)
    monkeypatch.setattr(cli, "_PROMPT", "The")
    monkeypatch.setattr(cli, "spec_of", lambda bits, method: FORMATS["W2A2 quest"])
    assert cli.main(["--out", str(tmp_path), "--steps", "2", "--bits", "2"]) == 0
    told = capsys.readouterr().out
    assert "2 steps" in told and "The|" in told and (tmp_path / "packed.npz").exists()
    model = transformer.sequence_model(language.load(tmp_path, cfg=CFG), CFG)
    np.testing.assert_array_equal(model.init(language.encode("The")).cache.length, 3)


@pytest.mark.bad_input
def test_options_of_the_command_line():
    assert cli.spec_of(None, "quest") is None
    one, two = cli.spec_of(1.0, "quest"), cli.spec_of(2.0, "plain")
    assert float(one.weights.clip_scale) == np.float32(1.3) and two.weights.hadamard == 0
    assert cli.spec_of(1.585, "quest").weights.bits == quantization.quest(1.585).weights.bits
    with pytest.raises(ValueError, match="method must be one of"):
        cli.spec_of(2, "none")
    with pytest.raises(ValueError, match="num_windows must be at most"):
        language.validation_loss(parameters(), CFG, num_windows=10**6)
    with pytest.raises(ValueError, match="one sequence of integers"):
        language.apply(parameters(), CFG, jnp.zeros((2, 3), jnp.int32))


def test_greedy_writing_follows_the_largest_logit():
    params = parameters()
    model = transformer.sequence_model(params, CFG)
    prompt = language.encode("if x")
    written = np.asarray(language.write(jax.random.key(0), model, prompt, 4, temperature=0.0))
    tokens = np.concatenate([prompt, written])
    logits = language.apply(params, CFG, tokens)
    np.testing.assert_array_equal(np.argmax(logits, -1)[3:-1], written)


@pytest.mark.full
def test_a_hundred_steps_rank_the_estimators():
    """Two bits after 100 steps: all learn, and the transform with trust is ahead of plain rounding. Measured: 2.685 in
    full precision, which is not ahead yet, 2.637 and 2.767; at first 4.55."""
    cfg = language.config(positions="learned")
    found = {
        name: language.train(jax.random.key(0), spec, cfg=cfg, num_steps=100, num_windows=64, progress=False)
        for name, spec in {
            "plain": None,
            "W2A2": quantization.quest(2, 2),
            "W2A2 ste": quantization.quest(2, 2, block=0, estimator="ste"),
        }.items()
    }
    values = {name: result.validation for name, result in found.items()}
    assert not any(int(result.status) for result in found.values())
    assert values["W2A2"] < values["W2A2 ste"] < 3.0 and 1.5 < values["plain"] < 3.0, values
