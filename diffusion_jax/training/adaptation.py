"""Functions of a model's parameters, as functions of these and of the little that is trained beside them.

    loss = adapted(loss, partial(lora.merged, alpha=8), "lora")
    train_step = make_train_step(loss, optimizer, ema_decay, fixed=tuple(params))
    state = init_state(params | {"lora": factors}, optimizer, fixed=tuple(params))

The step then computes no gradient for what is fixed and keeps no moments of it, and leaves it bit for bit as it is.
"""

from collections.abc import Callable

import jax

from diffusion_jax.types import Params


def adapted(function: Callable, change: Callable[[Params, Params], Params], name: str) -> Callable:
    """A function of parameters as one of {name: what is trained, **the model's own parameters}.

    function: takes parameters first: a loss, `Experiment.encode`, `Experiment.network`. change: (the model's
    parameters, what is trained) -> parameters for the function, such as `lora.merged`. No gradient reaches the model's
    own. Two adaptations are one within the other, under two names.
    """

    def with_change(params: Params, *arguments, **options):
        own = {key: value for key, value in params.items() if key != name}
        return function(change(jax.lax.stop_gradient(own), params[name]), *arguments, **options)

    return with_change
