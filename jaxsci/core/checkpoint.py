"""Checkpoints: a pytree, a step number and the configuration it belongs to, written by orbax (extra "nets").

Each step is a folder that appears only when it is complete, so a kill in the middle of a save leaves the former one
usable. The leaves are stored one by one with their names, shapes and dtypes beside them as JSON: nothing is pickled,
typed keys travel as their data, and what does not fit the tree asked for is named. Checksums of all leaves, and of the
text that holds them, stand beside: a flipped bit is refused.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxsci.core import entry, extras, files, keys, provenance
from jaxsci.core.static import check_size


def save(directory: str | Path, tree: PyTree, step: int, config: Any = None, keep: int = 2) -> None:
    """Write `tree` as step number `step`, then drop all but the newest `keep` steps.

    Args:
        directory: folder, made if it is not there.
        tree: pytree of arrays, typed keys and numbers; leaves of another kind (functions, strings) are not stored.
        step: an integer >= 0 not saved yet.
        config: what must be equal for the checkpoint to be used again: a mapping, a record, a Module or one value,
            made of anything that `provenance.fingerprint` takes (functions count by their source text). Only
            fingerprints and short texts are stored.
        keep: how many steps stay (at least 1).

    Raises:
        ValueError: the step is there already or is no integer >= 0, or `keep` is below 1.
        TypeError: a leaf is traced.
        OSError: the folder cannot be written.
        ImportError: the extra "nets" is missing.

    Example:
        >>> import jax.numpy as jnp
        >>> import tempfile
        >>> from jaxsci.core import checkpoint
        >>> folder = tempfile.mkdtemp()
        >>> checkpoint.save(folder, {"x": jnp.ones(2)}, 7)
        >>> print(checkpoint.latest(folder))
        7
    """
    keep = check_size("checkpoint.save", "keep", keep)
    step = check_size("checkpoint.save", "step", step, least=0)  # what is no such number would never be found again
    leaves, about = {}, []
    for number, (name, leaf) in enumerate(_stored(tree, "checkpoint.save")):
        data = _data(leaf)
        impl = keys.generator(leaf) if _is_key(leaf) else None
        about.append({"name": name, "spec": _spec(leaf), "impl": impl, "checksum": _checksum(data)})
        if data.size:
            leaves[str(number)] = data
    ocp = _orbax("checkpoint.save")
    text = json.dumps({"leaves": about, "config": _describe(config)})
    items = {"about": ocp.args.JsonSave({"text": text, "checksum": hashlib.sha256(text.encode()).hexdigest()})}
    if leaves:
        items["leaves"] = ocp.args.StandardSave(leaves)
    if step in _steps(directory):
        raise ValueError(f"checkpoint.save: {directory} holds step {step} already; choose another step or folder")
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, create=True, cleanup_tmp_directories=True, enable_async_checkpointing=False
    )
    with ocp.CheckpointManager(Path(files.named("checkpoint.save", directory)).absolute(), options=options) as manager:
        manager.save(step, args=ocp.args.Composite(**items), force=True)


def latest(directory: str | Path) -> int | None:
    """The newest complete step in `directory`; None when there is none. Needs no extra.

    Example:
        >>> import tempfile
        >>> from jaxsci.core import checkpoint
        >>> print(checkpoint.latest(tempfile.mkdtemp()))
        None
    """
    steps = _steps(directory)
    return steps[-1] if steps else None


def restore(directory: str | Path, like: PyTree, step: int | None = None, config: Any = None) -> PyTree:
    """Read a step back into the structure of `like`.

    Args:
        directory: folder that `save` wrote.
        like: a tree of the structure, shapes and dtypes saved; `jax.ShapeDtypeStruct` leaves do. NumPy leaves come
            back as NumPy, numbers as numbers, all others as JAX arrays on the devices of `like`. Leaves that `save`
            does not store are taken from here.
        step: which one; the newest by default.
        config: compared with the one saved; None compares nothing.

    Returns:
        The tree, equal bit by bit to the one saved.

    Raises:
        FileNotFoundError: no complete checkpoint, or not this step.
        ValueError: the configuration or a leaf differs, or the step is damaged; the message says which and how.
        ImportError: the extra "nets" is missing.

    Example:
        >>> import jax.numpy as jnp
        >>> import tempfile
        >>> from jaxsci.core import checkpoint
        >>> folder = tempfile.mkdtemp()
        >>> checkpoint.save(folder, {"x": jnp.ones(2)}, 7)
        >>> print(checkpoint.restore(folder, {"x": jnp.zeros(2)})["x"].sum())
        2.0
    """
    ocp = _orbax("checkpoint.restore")
    steps = _steps(directory)
    if not steps or (step is not None and step not in steps):
        wanted = "checkpoint" if step is None else f"step {step}"
        raise FileNotFoundError(f"checkpoint.restore: no {wanted} in {directory}; complete steps there: {steps}")
    folder = Path(directory).absolute() / str(steps[-1] if step is None else step)
    about = _about(folder)
    if config is not None:
        _compare_config(about["config"], _describe(config), directory)
    stored = _stored(like, "checkpoint.restore")
    _compare_leaves(about["leaves"], stored, directory)
    targets = {str(i): _target(leaf) for i, (_, leaf) in enumerate(stored)}
    targets = {name: target for name, target in targets.items() if target.size}
    found = {}
    if targets:
        try:
            with ocp.StandardCheckpointer() as reader:
                found = reader.restore(folder / "leaves", targets)
        except Exception as error:  # orbax and what it stands on raise many kinds for files that are not what they were
            raise _damaged(folder, f"{type(error).__name__}: {error}") from error
    for i, leaf in enumerate(about["leaves"]):
        data = found.get(str(i))
        if data is not None and leaf["checksum"] not in (None, _checksum(data)):
            raise _damaged(folder, f"{leaf['name']} is not the one that was saved")
    impls = [leaf["impl"] for leaf in about["leaves"]]
    values = iter([_rebuilt(leaf, found.get(str(i)), impls[i]) for i, (_, leaf) in enumerate(stored)])
    return jax.tree.map(lambda leaf: next(values) if _is_stored(leaf) else leaf, like)


def _orbax(function):
    return extras.require("orbax.checkpoint", "nets", function)


def _steps(directory) -> list[int]:
    """Complete steps, in order. Orbax renames a step's folder into place, and removes its metadata with the rest."""
    if not Path(files.named("checkpoint", directory)).is_dir():
        return []
    folders = [path for path in Path(directory).iterdir() if path.name.isdecimal()]
    return sorted(int(path.name) for path in folders if (path / "_CHECKPOINT_METADATA").is_file())


def _about(folder: Path) -> dict[str, Any]:
    """Names, shapes and checksums of the leaves of a step, and its configuration."""
    try:
        about = json.loads((folder / "about" / "metadata").read_text())
        text = about["text"]
        whole = about["checksum"] == hashlib.sha256(text.encode()).hexdigest()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder, "its description cannot be read") from error
    if not whole:
        raise _damaged(folder, "its description is not the one that was saved")
    return json.loads(text)


def _damaged(folder: Path, what: str) -> ValueError:
    others = [step for step in _steps(folder.parent) if str(step) != folder.name]
    remedy = f"; step {others[-1]} may be whole: remove this folder to go on from there" if others else ""
    return ValueError(f"checkpoint: {folder} is damaged ({what}){remedy}")


def _checksum(data) -> str | None:
    """SHA-256 of an array's bytes; None for one that lies on other processes in part."""
    if not getattr(data, "is_fully_addressable", True):
        return None
    return hashlib.sha256(np.ascontiguousarray(np.asarray(data)).tobytes()).hexdigest()


def _is_stored(leaf) -> bool:
    return eqx.is_array_like(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def _stored(tree, function):
    """(name, leaf) of all leaves that are stored."""
    named = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, jax.core.Tracer):
            raise TypeError(f"{function}: runs on the host, got a traced leaf; call it outside jit and vmap")
        if _is_stored(leaf):
            named.append((f"tree{jax.tree_util.keystr(path)}", leaf))
    return named


def _is_key(leaf) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _spec(leaf) -> str:
    if not hasattr(leaf, "dtype"):
        leaf = np.asarray(leaf)
    return f"{leaf.dtype}{list(leaf.shape)}"


def _data(leaf):
    if _is_key(leaf):
        return jax.random.key_data(leaf)
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def _target(leaf):
    """What orbax shall restore a leaf into."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        data = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
    else:
        data = _data(leaf)
        if not isinstance(data, jax.Array):
            return data
    sharding = getattr(data, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=sharding)


def _rebuilt(leaf, data, impl):
    """A leaf of the kind of `leaf` with the restored data; None stands for an array without entries."""
    if data is None:
        data = _target(leaf)
        data = np.zeros(data.shape, data.dtype) if isinstance(data, np.ndarray) else jnp.zeros(data.shape, data.dtype)
    if _is_key(leaf):
        return keys.wrap(data, impl)
    if isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct, np.ndarray)):
        return data
    return data[()] if isinstance(leaf, np.generic) else data.item()


def _compare_leaves(saved, like, directory):
    """Raise the ValueError that names the first leaf in which what was saved and `like` differ."""
    saved = [(leaf["name"], leaf["spec"]) for leaf in saved]
    like = [(name, _spec(leaf)) for name, leaf in like]
    prefix = f"checkpoint.restore: {directory} does not fit `like`: "
    for name, spec in like:
        if name not in dict(saved):
            raise ValueError(f"{prefix}it has no leaf {name} ({spec})")
    for name, spec in saved:
        if name not in dict(like):
            raise ValueError(f"{prefix}it holds a leaf {name} ({spec}) that `like` has not")
        if spec != dict(like)[name]:
            raise ValueError(f"{prefix}{name} was saved as {spec}, expected {dict(like)[name]}")


def _describe(config):
    """Name -> short text and fingerprint of each entry of a configuration."""
    if config is None:
        config = {}
    elif hasattr(config, "_asdict"):
        config = config._asdict()
    elif isinstance(config, eqx.Module):
        config = {name: getattr(config, name) for name in type(config).__dataclass_fields__}
    elif not isinstance(config, Mapping):
        config = {"config": config}
    described = {}
    for name, value in config.items():
        short = isinstance(value, (bool, int, float, complex, str, type(None), tuple, list)) and len(repr(value)) < 60
        digest = provenance.fingerprint(value)
        described[str(name)] = {"text": repr(value) if short else f"<{digest[:12]}>", "fingerprint": digest}
    return described


def _compare_config(saved, asked, directory):
    differ = []
    for name in sorted({*saved, *asked}):
        have, want = saved.get(name), asked.get(name)
        if have is None or want is None or have["fingerprint"] != want["fingerprint"]:
            texts = ("absent" if entry is None else entry["text"] for entry in (have, want))
            differ.append("{}: saved {}, now {}".format(name, *texts))
    if differ:
        raise ValueError(
            f"checkpoint: {directory} belongs to another configuration ({'; '.join(differ)}); "
            "give the same one or another folder"
        )


__all__ = ["latest", "restore", "save"]

entry.guard(globals())
