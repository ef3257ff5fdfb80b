"""What a config becomes: the functions that training, drawing and judging call."""

from collections.abc import Callable
from typing import NamedTuple

import optax

from diffusion_jax import text
from diffusion_jax.diffusion import schedules


class Experiment(NamedTuple):
    """A config as functions; parameters are {"text_encoder": ..., "denoiser": ...}, without text_encoder where captions
    come embedded.

    text: tokenizer and encoder. init: key -> parameters. encode: (parameters, tokens, mask, dropout_keys=None) -> Cond.
    network: (parameters, dropout_keys=None, changes of the module's settings) -> Network, of as many examples.
    loss: (parameters, batch, keys, rows=None) -> (scalar, metrics); see `training.step`.
    fixed: the names of parameters that training leaves as they are.
    """

    text: text.Text
    init: Callable
    encode: Callable
    network: Callable
    loss: Callable
    optimizer: optax.GradientTransformation
    schedule: schedules.Schedule
    parameterization: Callable
    picture_shape: tuple[int, int, int]
    fixed: tuple[str, ...] = ()
