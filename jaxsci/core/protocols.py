"""What users plug in and what families return: NamedTuples of pure functions with fixed names and arguments.

The functions are `jax.tree_util.Partial`s of module-level functions with the hyper-parameters as leaves, so a
family member crosses jit, stacks under vmap, is differentiated, and a new hyper-parameter value never
retraces. A bare closure is accepted too and is static: then a new closure is a new compilation.
Symbols: ``K`` arms; "record" means any pytree of arrays whose structure, shapes and dtypes never change.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxsci.core import entry, status, tree


class Decision(NamedTuple):
    """What a policy decided, and all that its update needs to know about it.

    Attributes:
        action: the arm played, int32, in [0, K).
        log_prob: log-probability of `action` under the distribution it was drawn from; 0 if the choice was
            deterministic or its distribution has no closed form (Thompson sampling: take no importance weights from
            it), -inf if the mask left no arm.
        aux: a record of the policy's own, computed at select time (probabilities, scores): an update that recomputed
            them would weight by another distribution than the one sampled.
    """

    action: Int[Array, ""]
    log_prob: Float[Array, ""]
    aux: PyTree = None


def finite_status(state: PyTree) -> Int[Array, ""]:
    """NONFINITE_RESULT where a floating leaf of `state` holds a NaN or an infinity, else 0.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import protocols
        >>> print(protocols.finite_status({"x": jnp.ones(2)}))
        0
    """
    return status.flag(~tree.all_finite(state), status.NONFINITE_RESULT)


class Policy(NamedTuple):
    """A bandit policy; losses, never rewards; their range is declared by the policy's factory.

    Attributes:
        init: ``init(key) -> state``: a record.
        select: ``select(key, state, context=None, mask=None) -> Decision``: `context` is any record, None for a policy
            without contexts; `mask` is Bool[K], True where the arm may be played.
        update: ``update(state, decision, loss, context=None, weight=1.) -> state``: `loss` is a scalar;
            `context` is what `select` saw; a `weight` of w counts as w plays. The state comes back unchanged, leaf for
            leaf, if nothing was played, if loss, weight or context is not finite, or if the weight is 0.
        status: ``status(state) -> int32``: bits of what went wrong in the state, 0 = ok. Drivers keep them in a field
            ``policy_status``; wrappers add those of the policies that they wrap. By default NONFINITE_RESULT where a
            floating leaf of the state is not finite.
    """

    init: Callable[..., PyTree]
    select: Callable[..., Decision]
    update: Callable[..., PyTree]
    status: Callable[[PyTree], Int[Array, ""]] = Partial(finite_status)


class Problem(NamedTuple):
    """One linear system ``op x = b`` with a start and what a policy may see of it.

    Attributes:
        op: a linear operator (a pytree).
        b: right-hand side: a record of arrays of the operator's shape.
        x0: first iterate, of the structure of `b`; None is zero.
        context: what the policy sees before it chooses; None is nothing.
    """

    op: Any
    b: PyTree
    x0: PyTree = None
    context: PyTree = None


class Solver(NamedTuple):
    """An iterative method for ``op x = b``, one step at a time; the stopping tests are the driver's, once for all.

    Attributes:
        prepare: ``prepare(op) -> system``: the operator in the storage and with the factors that the steps use.
        init: ``init(system, b, x0) -> state``: a record with a field ``x``, from which ``system.iterate(x)`` gives the
            iterate, and a field ``r`` = b - A x.
        step: ``step(system, b, state) -> state``: one sweep or iteration.
        broken: ``broken(system, state) -> status bits``: 0 while the method can go on.
    """

    prepare: Callable[..., Any]
    init: Callable[..., PyTree]
    step: Callable[..., PyTree]
    broken: Callable[..., Int[Array, ""]]


class StreamCarry(NamedTuple):
    """What a stream carries from one problem to the next.

    Attributes:
        solution: the solution of the problem before; the driver writes it here before it calls ``next`` again.
        memory: a record of the stream's own (a simulated state, a position in a file, ...).
    """

    solution: PyTree
    memory: PyTree = None


class Stream(NamedTuple):
    """A sequence of related problems, drawn inside the compiled loop.

    Attributes:
        init: ``init(key) -> StreamCarry``: `solution` has the shape every later solution has.
        next: ``next(key, carry, i) -> (StreamCarry, Problem)``: problem number `i` (int32, from 0) with the key of
            round i. ``carry.solution`` is the solution of problem i - 1, as the driver wrote it; at i = 0 that of
            ``init``.
    """

    init: Callable[..., StreamCarry]
    next: Callable[..., tuple[StreamCarry, Problem]]


class TimeStep(NamedTuple):
    """What an environment answers to a reset or to an action. A reset needs to name the observation alone.

    Attributes:
        observation: what is seen of the state reached, any record; at the end of an episode its last state, not the
            first one of the next episode.
        reward: reward earned by the step; 0 after a reset.
        discount: what the environment itself multiplies the value of `observation` by: 1 unless it discounts, as a
            problem in continuous time does by exp(-beta dt). A learner's own discount factor multiplies this one.
        terminated: nothing follows: the value beyond is zero whatever `discount` says.
        truncated: the episode was cut by a time limit: the value beyond is that of `observation`.
        status: int32 bits of this step, in the terms of the environment's room; 0 = ok.
    """

    observation: PyTree
    reward: Float[Array, ""] | float = 0.0
    discount: Float[Array, ""] | float = 1.0
    terminated: Bool[Array, ""] | bool = False
    truncated: Bool[Array, ""] | bool = False
    status: Int[Array, ""] | int = 0


class Environment(NamedTuple):
    """A decision process in discrete time as two pure functions for one episode; batches by `jax.vmap`.

    Attributes:
        reset: ``reset(key) -> (state, TimeStep)``: a new episode; `state` is a record of the environment's own.
        step: ``step(key, state, action) -> (state, TimeStep)``; the key is consumed, a deterministic environment
            ignores it. Whoever calls it resets after a step that terminated or truncated: it is never called on a
            state whose episode has ended.
    """

    reset: Callable[..., tuple[PyTree, TimeStep]]
    step: Callable[..., tuple[PyTree, TimeStep]]


class Result(NamedTuple):
    """What a long driver returns. A driver with more to say has a record of its own that begins with these four.

    Attributes:
        value: what was asked for: the last parameters, the best candidate, the recorded data.
        state: all that is needed to go on from here, to be handed to the same driver.
        history: one entry of each step or record along the leading axis; None where nothing is recorded on the way.
        status: int32 bits of the whole run, 0 is ok.
    """

    value: PyTree
    state: PyTree
    history: PyTree
    status: Int[Array, ""]


class SequenceModel(NamedTuple):
    """A model of sequences of tokens, asked for one token after the other: what particle decoding and samplers take.

    Attributes:
        init: ``init(prompt) -> state``: the state after the tokens Int[T] of a prompt, T static and possibly 0. A
            record of fixed sizes, caches included: states stack under vmap, and particles are permuted by permuting
            every leaf.
        logits: ``logits(state) -> Float[V]``: unnormalised log-probabilities of the token that comes next.
        advance: ``advance(state, token) -> state``: the state after one more token, int32.
    """

    init: Callable[..., PyTree]
    logits: Callable[..., Float[Array, " V"]]
    advance: Callable[..., PyTree]


class Denoiser(Protocol):
    r"""Predicts data and noise of a diffusion model, $x_t = \alpha_t x_0 + \sigma_t\varepsilon$."""

    def __call__(
        self, x: Float[Array, "*d"], t: Float[Array, ""], cond: PyTree, w: Float[Array, ""]
    ) -> tuple[Float[Array, "*d"], Float[Array, "*d"]]:
        """Predictions ``(D, eps)``, each of the shape of `x`.

        Args:
            x: the noisy point.
            t: its time in the noise schedule; `diffusion.predictions.denoiser` maps it to the model's own scale.
            cond: condition, any record; None is unconditional.
            w: guidance scale; 1 is no guidance.
        """
        ...


__all__ = [
    "Decision",
    "Denoiser",
    "Environment",
    "Policy",
    "Problem",
    "Result",
    "SequenceModel",
    "Solver",
    "Stream",
    "StreamCarry",
    "TimeStep",
    "finite_status",
]

entry.guard(globals())
