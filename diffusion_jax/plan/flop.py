"""How much a program computes: counted from its equations, by the rules of XLA's cost analysis.

A product of matrices or a convolution is two operations for each pair of numbers that it multiplies; the zeros around a
picture and between its pixels are not multiplied. Any other arithmetic is one operation for each element of its result,
a reduction one for each element that it takes away. Exponentials and their like are counted apart, and what only moves
data is free. Unlike XLA's, this count multiplies the body of a loop by the number of its turns.
"""

from math import prod
from typing import NamedTuple

from jax.extend import core

from diffusion_jax.plan.equations import alive, called


class Flop(NamedTuple):
    """products: by matrix products and convolutions; other: by all other arithmetic; transcendental: exp and its kin.

    endless: loops of which the program does not say how often they turn; they are counted as one turn.
    """

    products: int = 0
    other: int = 0
    transcendental: int = 0
    endless: int = 0

    @property
    def total(self) -> int:
        """What XLA calls flops."""
        return self.products + self.other

    def plus(self, more: "Flop", times: int = 1) -> "Flop":
        """This and so many times more."""
        return Flop(*(a + times * b for a, b in zip(self, more, strict=True)))


TRANSCENDENTAL = {
    "atan2", "cbrt", "cos", "erf", "exp", "exp2", "expm1", "log", "log1p", "logistic", "pow", "rsqrt", "sin", "sqrt",
    "tan", "tanh",
}  # fmt: skip
MOVES = {
    "bitcast_convert_type", "broadcast_in_dim", "concatenate", "copy", "copy_p", "device_put", "dynamic_slice",
    "dynamic_update_slice", "gather", "iota", "name", "optimization_barrier", "pad", "random_clone", "random_seed",
    "random_unwrap", "random_wrap", "reshape", "rev", "sharding_constraint", "slice", "split", "squeeze",
    "stop_gradient", "transpose",
}  # fmt: skip
# For each element: threefry's 20 rounds and 5 injections of its key make two words; two polynomials and a choice.
SEVERAL = {"random_bits": 55, "random_fold_in": 110, "random_split": 110, "erf_inv": 40, "one_minus_square": 2}


def count(jaxpr: core.Jaxpr) -> Flop:
    """The operations of a program and of all that it calls."""
    total = Flop()
    for equation in alive(jaxpr):
        bodies = [count(body) for body in called(equation)]
        name = equation.primitive.name
        if name == "cond":
            total = total.plus(max(bodies, key=lambda flop: flop.total))
        elif name == "while":
            total = total.plus(count(equation.params["body_jaxpr"].jaxpr)).plus(Flop(endless=1))
        elif name.startswith("custom_"):  # the call itself, not the rule of its derivative beside it
            total = total.plus(bodies[0])
        elif bodies:
            for body in bodies:
                total = total.plus(body, equation.params["length"] if name == "scan" else 1)
        else:
            total = total.plus(of_one(equation))
    return total


def of_one(equation: core.JaxprEqn) -> Flop:
    """The operations of an equation that calls no other program."""
    name = equation.primitive.name
    size = sum(v.aval.size for v in equation.outvars)
    taken = sum(v.aval.size for v in equation.invars)
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return Flop(products=2 * size * prod(equation.invars[0].aval.shape[axis] for axis in contracted))
    if name == "conv_general_dilated":
        return Flop(products=of_convolution(equation))
    if name in TRANSCENDENTAL:
        return Flop(transcendental=size)
    if name in MOVES:
        return Flop()
    if name.startswith("reduce_window"):
        return Flop(other=size * (prod(equation.params["window_dimensions"]) - 1))
    if name.startswith(("reduce_", "arg")):
        return Flop(other=max(taken - size, 0))
    if name.startswith("scatter"):  # the additions, where it adds
        return Flop(other=equation.invars[2].aval.size if "-" in name else 0)
    if name == "integer_pow":
        power = abs(equation.params["y"])
        return Flop(other=size * (power.bit_length() + power.bit_count() - 2 + (equation.params["y"] < 0)))
    return Flop(other=size * SEVERAL.get(name, 1))


def of_convolution(equation: core.JaxprEqn) -> int:
    """Two operations for each pair of a kernel's number and a picture's that are multiplied."""
    image, kernel = (v.aval.shape for v in equation.invars)
    result, how = equation.outvars[0].aval.shape, equation.params
    of_image, of_kernel, of_result = how["dimension_numbers"]
    pairs = 1
    for axis in range(2, len(image)):
        place, step, holes = axis - 2, how["window_strides"][axis - 2], how["lhs_dilation"][axis - 2]
        pairs *= _pairs(
            image[of_image[axis]], kernel[of_kernel[axis]], result[of_result[axis]],
            step, how["padding"][place][0], holes, how["rhs_dilation"][place],
        )  # fmt: skip
    channels = kernel[of_kernel[1]]  # of one group
    return 2 * pairs * channels * result[of_result[1]] * (image[of_image[0]] // how["batch_group_count"])


def _pairs(size: int, window: int, places: int, step: int, before: int, holes: int, apart: int) -> int:
    """Along one axis, how many places of the window and elements in it are numbers of the picture."""
    hits = 0
    for tap in range(window):
        first = tap * apart - before
        hits += sum(
            0 <= at < (size - 1) * holes + 1 and at % holes == 0 for at in range(first, first + places * step, step)
        )
    return hits
