"""Functions of a model's parameters, as functions of these and of the little that is trained beside them.

    loss = adapted(loss, lora=partial(lora.merged, alpha=8))
    train_step = make_train_step(loss, optimizer, ema_decay, fixed=tuple(params))
    state = init_state(params | {"lora": factors}, optimizer, fixed=tuple(params))

The step computes no gradient for what is fixed, keeps no moments of it, and leaves it bit for bit as it is. The state's
average still holds a copy of it.
"""

from collections.abc import Callable, Collection

import jax

from diffusion_jax.types import Params


def adapted(
    function: Callable, fixed: Collection[str] | None = None, /, **changes: Callable[[Params, Params], Params]
) -> Callable:
    """A function of parameters as one of {name: what is trained, ..., **the model's own parameters}.

    function: takes parameters first: a loss, `Experiment.encode`, `Experiment.network`. changes: by name, and done in
    this order, (parameters, what is trained under that name) -> parameters, such as `lora.merged`. No gradient reaches
    those of the model's own parameters that `fixed` names, and none of them without it. A change's name must be none of
    theirs.
    """

    def of_all(params: Params, *arguments, **options):
        own = {name: value for name, value in params.items() if name not in changes}
        still, stop = own if fixed is None else fixed, jax.lax.stop_gradient
        changed = {name: stop(value) if name in still else value for name, value in own.items()}
        for name, change in changes.items():
            changed = change(changed, params[name])
        return function(changed, *arguments, **options)

    return of_all
