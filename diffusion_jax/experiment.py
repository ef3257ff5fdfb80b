"""What a config becomes: the functions that training, drawing and judging call."""

from collections.abc import Callable
from typing import NamedTuple

import optax

from diffusion_jax import text
from diffusion_jax.diffusion import schedules


class Experiment(NamedTuple):
    """A config as functions; parameters are {"text_encoder": ..., "denoiser": ...}, without text_encoder where captions
    come embedded.

    text: tokenizer and encoder. init: key -> parameters. encode: (parameters, tokens, mask) -> Cond.
    network: (parameters, changes of the module's settings) -> Network.
    loss: (parameters, batch, keys) -> (scalar, metrics).
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
