"""What a traced program consists of: its equations, and the programs within them."""

from collections.abc import Iterator

from jax.extend import core


def alive(jaxpr: core.Jaxpr) -> list[core.JaxprEqn]:
    """The equations whose results are used, in their order: XLA leaves the others out."""
    used = {v for v in jaxpr.outvars if isinstance(v, core.Var)}
    kept = []
    for equation in reversed(jaxpr.eqns):
        if equation.effects or any(v in used for v in equation.outvars):
            kept.append(equation)
            used.update(v for v in equation.invars if isinstance(v, core.Var))
    return kept[::-1]


def called(equation: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """The programs that an equation runs: the body of a loop, the branches of a choice, what is jitted or checkpointed.

    Not those of scatters and reductions, which say how two elements become one.
    """
    if equation.primitive.name.startswith(("scatter", "reduce")):
        return
    for value in equation.params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, core.ClosedJaxpr):
                yield each.jaxpr
            elif isinstance(each, core.Jaxpr):
                yield each
