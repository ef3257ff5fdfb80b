"""The lines of a report, word by word."""

import pytest

from diffusion_jax.evaluation import sentences
from diffusion_jax.evaluation.paired import MOST_SEEDS
from diffusion_jax.evaluation.verdicts import BETTER, NO_DIFFERENCE, WITHHELD, WORSE, Arm, Fates, Needed, Verdict

nan = float("nan")
five = (0, 1, 2, 3, 4)


def verdict(said, needed=None, reason="", left_out=(), p=0.5):
    return Verdict("cosine", "linear", said, reason, -0.0123, -0.02, -0.004, p, 0.0234, 0.0625, five, left_out, needed)


@pytest.mark.parametrize(
    ("arm", "line"),
    [
        (Arm("cosine", 0.12345, 0.1, 0.2, Fates(five, (), (), ())), "cosine: 0.1235 [0.1, 0.2], 5 of 5 seeds"),
        (
            Arm("cosine", 0.12345, 0.1, 0.2, Fates((0, 2), (1,), (3, 4), (5,))),
            "cosine: 0.1235 [0.1, 0.2], 2 of 6 seeds; diverged: seed 1; crashed: seeds 3, 4; missing: seed 5",
        ),
        (Arm("cosine", 0.12345, nan, nan, Fates((0,), (), (), ())), "cosine: 0.1235 (no interval), 1 of 1 seeds"),
        (Arm("cosine", nan, nan, nan, Fates((), (), (0,), ())), "cosine: no figure, 0 of 1 seeds; crashed: seed 0"),
    ],
)
def test_an_arm(arm, line):
    assert sentences.of_arm(arm) == line


@pytest.mark.parametrize(
    ("verdict", "line"),
    [
        (verdict(BETTER), "better, by 0.0123 (cosine - linear: -0.0123 [-0.02, -0.004]), p = 0.023"),
        (
            verdict(BETTER)._replace(seeds=(0, 1, 2, 3)),
            "better, by 0.0123 (cosine - linear: -0.0123 [-0.02, -0.004]), p = 0.023 (few seeds: if they are normal)",
        ),
        (verdict(WORSE), "worse, by 0.0123 (cosine - linear: -0.0123 [-0.02, -0.004]), p = 0.023"),
        (verdict(NO_DIFFERENCE, Needed(12, 7, 40)), "no difference shown (needs about 7 more seeds, 2 to 35)"),
        (verdict(NO_DIFFERENCE, Needed(6, 4, 40)), "no difference shown (needs about 1 more seed, 0 to 35)"),
        (
            verdict(NO_DIFFERENCE, Needed(12, 7, MOST_SEEDS)),
            "no difference shown (needs about 7 more seeds, 2 to very many)",
        ),
        (
            verdict(NO_DIFFERENCE, Needed(MOST_SEEDS, 900, MOST_SEEDS)),
            "no difference shown (needs 10000 seeds or more)",
        ),
        (verdict(NO_DIFFERENCE, Needed(4, 3, 5)), "no difference shown (5 seeds are enough for a relevant one)"),
        (
            verdict(NO_DIFFERENCE, Needed(5, 3, 9)),
            "no difference shown (5 seeds are enough for a relevant one, or 4 more if the spread is small by luck)",
        ),
        (verdict(NO_DIFFERENCE, p=1.0), "no difference shown (equal in every seed)"),
        (verdict(NO_DIFFERENCE, left_out=(5, 6)), "no difference shown; left out: seeds 5, 6"),
        (verdict(WITHHELD, reason="no seed", left_out=(5,)), "withheld (no seed); left out: seed 5"),
    ],
)
def test_a_verdict(verdict, line):
    assert sentences.of_verdict(verdict) == f"cosine against linear: {line}"
