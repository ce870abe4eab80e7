"""What the functions of a model must return: messages for those that return something else."""

import jax
import jax.numpy as jnp


def pair(name, value, count):
    """What `init` (2 things) or `move` (3) returned."""
    if not (isinstance(value, tuple) and len(value) == count):
        wanted = "(particles, log_weights)" if count == 2 else "(particles, log_increment, aux)"
        raise TypeError(f"smc.run: {name} must return {wanted}, got {type(value).__name__}")
    return value


def check_vector(name, what, value, num):
    """A float for each of `num` particles."""
    if value.shape != (num,) or not jnp.issubdtype(value.dtype, jnp.floating):
        got = f"{value.dtype}{list(value.shape)}"
        raise TypeError(f"smc.run: {what} from {name} must be a float for each of {num} particles, got {got}")


def check_cloud(name, particles, num, before=None):
    """Arrays with `num` along the leading axis, in all as those of the cloud `before`."""
    leaves = jax.tree_util.tree_leaves_with_path(particles)
    for path, leaf in leaves:
        if jnp.shape(leaf)[:1] != (num,):
            raise ValueError(
                f"smc.run: particles{jax.tree_util.keystr(path)} from {name} must have {num} particles "
                f"along its leading axis, got shape {jnp.shape(leaf)}"
            )
    if before is None:
        return
    if jax.tree.structure(particles) != jax.tree.structure(before):
        raise TypeError(
            f"smc.run: {name} must keep the structure of the particles, {jax.tree.structure(before)}, got "
            f"{jax.tree.structure(particles)}"
        )
    for (path, leaf), old in zip(leaves, jax.tree.leaves(before)):
        if jnp.shape(leaf) != old.shape or jnp.result_type(leaf) != old.dtype:
            raise TypeError(
                f"smc.run: {name} must keep shapes and dtypes, but particles{jax.tree_util.keystr(path)} "
                f"was {old.dtype}{list(old.shape)} and came back as {jnp.result_type(leaf)}{list(jnp.shape(leaf))}"
            )


__all__: list[str] = []
