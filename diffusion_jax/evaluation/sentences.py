"""What do the verdicts say, in words? One line for an arm, one for a pair of arms."""

from collections.abc import Sequence

from diffusion_jax.evaluation.paired import MOST_SEEDS
from diffusion_jax.evaluation.verdicts import NO_DIFFERENCE, WITHHELD, Arm, Needed, Verdict


def of_arm(arm: Arm) -> str:
    """Such as "cosine: 0.123 [0.118, 0.131], 3 of 5 seeds; diverged: seed 1; crashed: seed 4"."""
    finished, *lost = arm.fates
    figure = f"{arm.mean:.4g} (no interval)" if finished else "no figure"
    if len(finished) > 1:
        figure = f"{arm.mean:.4g} [{arm.low:.4g}, {arm.high:.4g}]"
    names = [f"; {fate}: {_listed(seeds)}" for fate, seeds in zip(arm.fates._fields[1:], lost, strict=True) if seeds]
    return f"{arm.name}: {figure}, {len(finished)} of {sum(map(len, arm.fates))} seeds" + "".join(names)


def of_verdict(verdict: Verdict) -> str:
    """Such as "cosine against linear: no difference shown (needs about 7 more seeds, 2 to 19)"."""
    line = f"{verdict.a} against {verdict.b}: {verdict.verdict}"
    if verdict.verdict == WITHHELD:
        line += f" ({verdict.reason})"
    elif verdict.verdict != NO_DIFFERENCE:
        line += f", by {abs(verdict.difference):.3g} ({_interval(verdict)}), p = {verdict.p_holm:.2g}"
        line += " (few seeds: if they are normal)" if len(verdict.seeds) < 5 else ""
    elif verdict.needed is not None:
        line += f" ({_more(verdict.needed, len(verdict.seeds))})"
    else:
        line += " (equal in every seed)" if verdict.p == 1 else ""
    return line + (f"; left out: {_listed(verdict.left_out)}" if verdict.left_out else "")


def _interval(verdict: Verdict) -> str:
    return f"{verdict.a} - {verdict.b}: {verdict.difference:.3g} [{verdict.low:.3g}, {verdict.high:.3g}]"


def _more(needed: Needed, n: int) -> str:
    at_least, more, at_most = (max(each - n, 0) for each in (needed.at_least, needed.seeds, needed.at_most))
    most = "very many" if needed.at_most >= MOST_SEEDS else str(at_most)
    if needed.seeds >= MOST_SEEDS:
        return f"needs {MOST_SEEDS} seeds or more"
    if more == 0:
        doubt = f", or {most} more if the spread is small by luck" if at_most else ""
        return f"{n} seeds are enough for a relevant one{doubt}"
    return f"needs about {more} more seed{'s' if more > 1 else ''}, {at_least} to {most}"


def _listed(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
