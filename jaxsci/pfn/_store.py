"""Models as npz files: parameters, borders, the configuration as text, and what they were trained on.

The header holds the fingerprint of all that is no array, so a file whose configuration was changed, or which belongs to
another one, is refused; arrays carry checksums. Nothing needs more than the core of the package.

The package brings small models of its own: `names` lists them, ``load(name)`` reads one, `about` tells its figures.
"""

import importlib.resources
import json
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsci.core import arrays
from jaxsci.pfn import _network
from jaxsci.pfn._predict import Model
from jaxsci.pfn._predict import model as _model

_KIND, _VERSION, _TEXT = "pfn.model", 1, "about"


def save(path: str | os.PathLike, model: Model, *, about: dict[str, Any] | None = None) -> None:
    """Write a model; the file appears whole or not at all.

    Args:
        path: of the npz file; its folder must be there.
        model: one model, no stack.
        about: what it was trained on, and what was measured: anything that JSON can hold.

    Raises:
        TypeError: `model` is no `Model`, an array of it is traced, or `about` holds what JSON cannot.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import os, tempfile
        >>> from jaxsci import pfn
        >>> cfg = pfn.config(1, 10, width=8, num_layers=1)
        >>> model = pfn.model(pfn.init(jax.random.key(0), cfg), cfg, jnp.linspace(-3.0, 3.0, 11))
        >>> path = os.path.join(tempfile.mkdtemp(), "mine.npz")
        >>> pfn.save(path, model, about={"prior": "mine"})
        >>> print(pfn.load(path).config == cfg)
        True
    """
    if not isinstance(model, Model):
        raise TypeError(f"pfn.save: model must be a Model, got {type(model).__name__}")
    leaves = jax.tree_util.tree_leaves_with_path(model.params)
    found = {"params." + ".".join(p.key for p in path): leaf for path, leaf in leaves}
    if model.borders is not None:
        found["borders"] = model.borders
    text = {"config": _plain(model.config), "full_support": model.full_support, "about": about or {}}
    written = json.dumps(text, sort_keys=True)
    found[_TEXT] = np.frombuffer(written.encode(), np.uint8)
    arrays.save(path, found, kind=_KIND, version=_VERSION, config=_identity(json.loads(written)), caller="pfn.save")


def load(source: str | os.PathLike, *, config: _network.Config | None = None) -> Model:
    """A model from a file, or one of the package's own by its name.

    Args:
        source: a path that ends in ``.npz``, or one of `names`.
        config: what the model must be; None takes what the file says.

    Raises:
        FileNotFoundError: there is no such file, or no such name; the message lists the names.
        ValueError: the file is damaged, of another kind, newer, or its configuration is another one.

    Example:
        >>> from jaxsci import pfn
        >>> model = pfn.load("gp-1d-small")
        >>> print(model.config.num_features, model.full_support)
        1 True
    """
    path, text, found = _read(source, "pfn.load")
    cfg = _config(text["config"], path)
    if config is not None and config != cfg:
        raise ValueError(f"pfn.load: {path} belongs to another configuration: it has {cfg}, expected {config}")
    like = jax.eval_shape(lambda key: _network.init(key, cfg), jax.random.key(0))

    def leaf(where, spec):
        name = "params." + ".".join(p.key for p in where)
        if name not in found or found[name].shape != spec.shape:
            raise ValueError(f"pfn.load: {path} does not hold {name!r} of shape {spec.shape}")
        return jnp.asarray(found[name])

    params = jax.tree_util.tree_map_with_path(leaf, like)
    return _model(params, cfg, found.get("borders"), full_support=text["full_support"])


def about(source: str | os.PathLike) -> dict[str, Any]:
    """What was saved with a model: prior, training, figures. Arguments and errors as those of `load`.

    Example:
        >>> from jaxsci import pfn
        >>> print(sorted(pfn.about("gp-1d-small"))[:3])
        ['figures', 'training']
    """
    return _read(source, "pfn.about")[1]["about"]


def names() -> tuple[str, ...]:
    """Names of the models that the package brings.

    Example:
        >>> from jaxsci import pfn
        >>> print(pfn.names())
        ('gp-1d-small', 'lc-small', 'tabular-small')
    """
    folder = importlib.resources.files("jaxsci.pfn") / "weights"
    return tuple(sorted(item.name.removesuffix(".npz") for item in folder.iterdir() if item.name.endswith(".npz")))


def _read(source, caller):
    if os.fspath(source).endswith(".npz"):
        return _opened(source, caller)
    if source not in names():
        raise FileNotFoundError(
            f"{caller}: there is no model {os.fspath(source)!r}; there are: {', '.join(names()) or 'none'}; the "
            "name of a file ends in .npz"
        )
    item = importlib.resources.files("jaxsci.pfn") / "weights" / f"{source}.npz"
    with importlib.resources.as_file(item) as path:  # a file also where the package is zipped
        return _opened(path, caller)


def _opened(path, caller):
    found = arrays.load(path, kind=_KIND, version=_VERSION, names=[_TEXT], caller=caller)
    try:
        text = json.loads(found.pop(_TEXT).tobytes())
    except ValueError as error:
        raise ValueError(f"{caller}: the configuration in {path} is no text: {error}") from error
    arrays.load(path, kind=_KIND, version=_VERSION, config=_identity(text), caller=caller)
    return path, text, found


def _identity(text):
    """What the fingerprint in the header is of."""
    return {"text": json.dumps(text, sort_keys=True)}


def _plain(cfg: _network.Config) -> dict[str, Any]:
    """A configuration as JSON holds it."""

    def fields(record):
        return {name: getattr(record, name) for name in record.__dataclass_fields__}

    return {**fields(cfg), "transformer": fields(cfg.transformer)}


def _config(plain: dict[str, Any], path) -> _network.Config:
    blocks = plain["transformer"]
    ranges = {name: None if plain[name] is None else tuple(plain[name]) for name in ("x_range", "y_range")}
    cfg = _network.config(
        plain["num_features"], plain["num_buckets"], width=blocks["width"], num_layers=blocks["num_layers"],
        num_heads=blocks["num_heads"], hidden=blocks["hidden"], **ranges,
    )  # fmt: skip
    if json.loads(json.dumps(_plain(cfg))) != plain:
        raise ValueError(f"pfn.load: {path} belongs to another configuration than this program can make: {plain}")
    return cfg


__all__ = ["about", "load", "names", "save"]
