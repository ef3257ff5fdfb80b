"""The words of a report that a page and a text share: what is measured, versions, how to do it again, what it means."""

from collections.abc import Sequence
from pathlib import Path

from diffusion_jax.report.findings import Sweep
from diffusion_jax.report.judged import Result

MEANING = (
    "The 95% interval of an arm is a studentized bootstrap over its seeds; that of a difference is Student's t over "
    "the differences seed by seed: seed k of every arm has the same data order, first weights where shapes agree, and "
    "noise. A verdict asks whether p, of the paired t-test and corrected for all pairs of the figure by Holm, is below "
    "0.05: so a sweep whose arms are all alike calls any of them better in one of twenty at most. p (signs) is that of "
    "the exact sign-flip test, uncorrected, which asks for no normal law; with n seeds it cannot be below 2 / 2^n.",
    "“No difference shown” is not “no difference”: beside it stands how many more seeds would show the difference that "
    "was held to matter. Runs that crashed, diverged or are missing are left out of means, and named.",
)
DRAWING = (
    "Nothing was trained: each seed is a draw of noise of one and the same model. Intervals and verdicts are about "
    "that model, and say nothing of what training it again would change."
)
OTHERS = (
    "What decides was settled before: the first figure of the sweep's config. The figures below were measured beside "
    "it. Each is corrected for its own pairs, but not for there being several figures: of many, some differ by chance."
)
SECONDS = "Seconds are of the machine that did it, and of whatever else it did."


def measured(result: Result) -> str:
    """What a figure is, in a sentence: its unit, number, floor and features, and what difference matters."""
    about = result.measured.about
    told = f"{about['title'][:1].upper()}{about['title'][1:]}, of {about['n']:,} {about['of']}"
    told += f"; {about['better']} is better" if about["better"] else "; neither side is better"
    if about["better"]:
        form = ".0%" if about["relevant_of"] == "mean" else "g"
        told += f"; a difference matters from {about['relevant']:{form}} on"
    if about.get("floor") is not None:
        told += f"; real pictures against real ones score {about['floor']:.4g}"
    if about.get("features"):
        told += f"; features of {about['features']}"
    return told + "."


def versions(sweep: Sweep) -> list[str]:
    """Lines such as "jax 0.12.0"; where runs had several, all of them."""
    known: dict[str, set[str]] = {}
    for run in sweep.runs.values():
        for name, version in run.versions.items():
            known.setdefault(name, set()).add(version)
    lines = [f"{name} {' or '.join(sorted(found))}" for name, found in known.items()]
    mixed = [name for name, found in known.items() if len(found) > 1]
    return [*lines, *([f"Runs differ in {', '.join(mixed)}: compare with care."] if mixed else [])]


def again(sweep: Sweep) -> list[str]:
    """The commands that make this report anew, from nothing."""
    preset = f" --preset={sweep.preset}" if sweep.preset else ""
    return [
        f"diffusion-jax sweep {sweep.question}.py --seeds={sweep.seeds}{preset}",
        f"diffusion-jax report {sweep.question}.py",
    ]


def samples(sweep: Sweep, seed: int) -> tuple[list[str], list[tuple[str, str]]]:
    """The prompts, and of each arm that has drawn them with this seed the file of its row of pictures."""
    prompts: list[str] = []
    rows = []
    for arm in sweep.arms:
        run = sweep.runs.get((arm, seed))
        if run is None or not run.record or not Path(run.record.get("strip") or "/").is_file():
            continue
        if prompts and run.record["prompts"] != prompts:
            continue
        prompts = run.record["prompts"]
        rows.append((arm, run.record["strip"]))
    return prompts, rows


def title(sweep: Sweep) -> tuple[str, Sequence[str]]:
    """The question in a line, and what is known of it, in paragraphs."""
    first, *rest = (sweep.about or sweep.question).split("\n\n")
    return " ".join(first.split()), rest
