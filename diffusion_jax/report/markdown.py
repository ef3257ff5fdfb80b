"""The report as a text: tables and words of the page, and its figures by their files."""

from collections.abc import Sequence

from diffusion_jax.report import judged, parts, tables
from diffusion_jax.report.findings import Sweep
from diffusion_jax.report.judged import Result
from diffusion_jax.report.plots import Figure


def text(sweep: Sweep, results: Sequence[Result], figures: Sequence[Figure]) -> str:
    """The whole report in Markdown."""
    first, *others = results
    title, known = parts.title(sweep)
    lines = [f"# {title}", "", *(f"{paragraph}\n" for paragraph in known)]
    lines += [f"- **{line}**" for line in judged.undone(sweep)]
    lines += ["", "## What decides", "", parts.measured(first), ""]
    lines += [parts.DRAWING, ""] if sweep.replicates == "drawing" else []
    lines += [f"- {line}" for line in judged.sentences_of(sweep, first)]
    lines += ["", *table(tables.arms(sweep, first)), ""]
    if first.verdicts:
        lines += [*table(tables.pairs(first)), ""]
    lines += _images(figures, "arms")
    if others:
        lines += ["## Also measured", "", parts.OTHERS, ""]
    for result in others:
        lines += [f"### {result.measured.name}", "", parts.measured(result), "", *table(tables.arms(sweep, result)), ""]
        lines += [f"- {line}" for line in judged.sentences_of(sweep, result, most=5)] + [""]
    for section, heading in (("curves", "Curves"), ("trades", "One against another")):
        if images := _images(figures, section):
            lines += [f"## {heading}", "", *images]
    lines += ["## Cost", "", *table(tables.costs(sweep)), "", "## Arms", ""]
    lines += [f"- `{arm}`: {'; '.join(differs) or 'as get_config() has it'}" for arm, differs in sweep.arms.items()]
    lines += ["", "## How to do it again", "", *(f"    {line}" for line in parts.again(sweep)), ""]
    lines += [f"- {line}" for line in parts.versions(sweep)]
    return "\n".join([*lines, "", "## What the words mean", "", *parts.MEANING, ""])


def table(made: tables.Table) -> list[str]:
    """The lines of a table; marked rows are bold in their first cell."""

    def row(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    body = [[f"**{cells[0]}**", *cells[1:]] if i in made.marked else cells for i, cells in enumerate(made.rows)]
    return [row(made.head), f"|{'---|' * len(made.head)}", *map(row, body)]


def _images(figures: Sequence[Figure], section: str) -> list[str]:
    return [line for each in figures if each.section == section for line in (f"![{each.title}]({each.name}.png)", "")]
