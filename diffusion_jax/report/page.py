"""The report as one HTML file, which needs nothing else: no script, and pictures within it."""

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from diffusion_jax.report import judged, parts, tables
from diffusion_jax.report.findings import Sweep
from diffusion_jax.report.judged import Result
from diffusion_jax.report.plots import Figure

MOST_SEEDS = 5  # whose pictures are shown
STYLE = """
:root { color-scheme: light; --ink: #1d2126; --quiet: #5d6670; --line: #d9dee3; --mark: #eef5ea; --warn: #fff4e0; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; color: var(--ink); background: #fff;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p, li { max-width: 46rem; }
.quiet { color: var(--quiet); font-size: .9rem; }
.warn { background: var(--warn); padding: .6rem .8rem; border-radius: 6px; }
.warn p { margin: .2rem 0; }
.box { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; width: max-content; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .28rem .7rem .28rem 0; border-bottom: 1px solid var(--line); white-space: nowrap;
  vertical-align: top; }
td.said { white-space: normal; min-width: 16rem; }
thead th { color: var(--quiet); font-weight: 600; }
tr.marked > * { background: var(--mark); }
figure { margin: 1rem 0; }
figure img { width: 100%; max-width: 44rem; height: auto; display: block; }
figcaption { color: var(--quiet); font-size: .85rem; max-width: 44rem; }
.strip img { height: 60px; width: auto; display: block; image-rendering: pixelated; }
.strip thead th { font-weight: 400; font-size: .75rem; white-space: normal; width: 64px; vertical-align: bottom; }
.pair { display: grid; gap: 0 1.5rem; }
@media (min-width: 56rem) { .pair { grid-template-columns: 1fr 1fr; } }
.strip td, .strip th { padding: .12rem .3rem .12rem 0; border: 0; vertical-align: middle; }
pre { overflow-x: auto; background: #f5f7f9; padding: .6rem .8rem; border-radius: 6px; font-size: .85rem; }
details { margin: .4rem 0; } summary { cursor: pointer; color: var(--quiet); }
"""


def html(sweep: Sweep, results: Sequence[Result], figures: Sequence[Figure]) -> str:
    """The whole page."""
    first, *others = results
    title, known = parts.title(sweep)
    undone = judged.undone(sweep)
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="quiet">{len(sweep.arms)} arms × {sweep.seeds} seeds'
        f"{f', preset {escape(sweep.preset)}' if sweep.preset else ''}; decided by {escape(first.measured.name)}</p>",
        f'<div class="warn" role="note">{_paragraphs(undone)}</div>' if undone else "",
        "<h2>What was found</h2>",
        f"<p>{escape(parts.measured(first))}</p>",
        f"<p>{escape(parts.DRAWING)}</p>" if sweep.replicates == "drawing" else "",
        _list(judged.sentences_of(sweep, first)),
        _table(tables.arms(sweep, first)),
        _figures(figures, "arms"),
        _pairs(first),
        f"<details><summary>What was known, and how it was asked</summary>{_known(known)}</details>" if known else "",
        _also(sweep, others, figures),
        _section("Curves", _figures(figures, "curves")),
        _section("Pictures", _samples(sweep)),
        _section("One against another", _figures(figures, "trades")),
        _section("Cost", _table(tables.costs(sweep)) + _note(parts.SECONDS)),
        _section("Arms", _arms(sweep)),
        _section("How to do it again", _again(sweep)),
        _section("What the words mean", _paragraphs(parts.MEANING)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><link rel="icon" href="data:,"><style>{STYLE}</style></head>\n'
        f"<body>\n{chr(10).join(part for part in body if part)}\n</body></html>\n"
    )


def _also(sweep: Sweep, others: Sequence[Result], figures: Sequence[Figure]) -> str:
    if not others:
        return ""
    parts_of = [f"<p>{escape(parts.OTHERS)}</p>"]
    for result in others:
        name = f"arms_{result.measured.name.replace('/', '_')}"
        drawn = [_figure(each) for each in figures if each.name == name]
        parts_of += [
            f"<h3>{escape(result.measured.name)}</h3><p>{escape(parts.measured(result))}</p>",
            _list(judged.sentences_of(sweep, result, most=3)),
            f"<details><summary>Arms and pairs</summary>{_table(tables.arms(sweep, result))}{''.join(drawn)}"
            f"{_pairs(result)}</details>",
        ]
    return _section("Also measured", "".join(parts_of))


def _pairs(result: Result) -> str:
    if not result.verdicts:
        return ""
    left = len(result.verdicts) - tables.MOST_PAIRS
    more = f"{left} pairs more are in pairs.csv." if left > 0 else ""
    return _table(tables.pairs(result), said=5) + _note(more)


def _samples(sweep: Sweep) -> str:
    grids = [_grid(sweep, seed) for seed in range(min(sweep.seeds, MOST_SEEDS))]
    shown = [(seed, grid) for seed, grid in enumerate(grids) if grid]
    if not shown:
        return ""
    (first, grid), *others = shown
    more = "".join(f"<details><summary>Seed {seed}</summary>{each}</details>" for seed, each in others)
    return f"<p>Seed {first} of each arm: in a column one prompt, drawn from one noise.</p>{grid}{more}"


def _grid(sweep: Sweep, seed: int) -> str:
    """The pictures of one seed, an arm a row; nothing where there are none."""
    prompts, rows = parts.samples(sweep, seed)
    head = "".join(f'<th scope="col">{escape(prompt)}</th>' for prompt in prompts)
    body = []
    for arm, strip in rows:
        told = [escape(f"{arm}: {prompt}", quote=True) for prompt in prompts]
        tiles = zip(_tiles(strip, len(prompts)), told, strict=True)
        cells = "".join(f'<td><img src="{_data(tile, "png")}" alt="{alt}"></td>' for tile, alt in tiles)
        body.append(f'<tr><th scope="row">{escape(arm)}</th>{cells}</tr>')
    table = f'<table class="strip"><thead><tr><td></td>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    return f'<div class="box" tabindex="0">{table}</div>' if rows else ""


def _tiles(strip: str, count: int) -> list[bytes]:
    """The pictures of a row, a PNG each."""
    made = []
    with Image.open(strip) as row:
        side = row.width // count
        for number in range(count):
            out = io.BytesIO()
            row.crop((number * side, 0, (number + 1) * side, row.height)).save(out, "PNG")
            made.append(out.getvalue())
    return made


def _arms(sweep: Sweep) -> str:
    rows = [[arm, "; ".join(differs) or "as get_config() has it"] for arm, differs in sweep.arms.items()]
    return _table(tables.Table(("arm", "what it changes"), rows), said=1)


def _again(sweep: Sweep) -> str:
    commands = "\n".join(parts.again(sweep))
    return f"<pre>{escape(commands)}</pre>{_list(parts.versions(sweep))}"


def _figures(figures: Sequence[Figure], section: str) -> str:
    drawn = [_figure(each) for each in figures if each.section == section]
    return "".join(drawn) if len(drawn) < 2 else f'<div class="pair">{"".join(drawn)}</div>'


def _figure(figure: Figure) -> str:
    return (
        f'<figure><img src="{_data(figure.svg, "svg+xml")}" alt="{escape(figure.title, quote=True)}">'
        f"<figcaption>{escape(figure.title)}. Data: {escape(figure.name)}.csv</figcaption></figure>"
    )


def _table(made: tables.Table, said: int | None = None) -> str:
    """A table in a box that scrolls by itself; said: the column whose cells are sentences."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in made.head)
    body = []
    for number, cells in enumerate(made.rows):
        first, *rest = (escape(cell) for cell in cells)
        tail = "".join(f"<td{' class=said' * (i == said)}>{cell}</td>" for i, cell in enumerate(rest, 1))
        mark = ' class="marked"' if number in made.marked else ""
        body.append(f'<tr{mark}><th scope="row">{first}</th>{tail}</tr>')
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return f'<div class="box" tabindex="0">{table}</div>'


def _section(heading: str, content: str) -> str:
    return f"<h2>{escape(heading)}</h2>{content}" if content else ""


def _known(known: Sequence[str]) -> str:
    """Paragraphs, and what is indented as it stands."""
    return "".join(
        f"<pre>{escape(each)}</pre>" if each.startswith("    ") else f"<p>{escape(each)}</p>" for each in known
    )


def _paragraphs(lines: Sequence[str]) -> str:
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def _note(line: str) -> str:
    return f'<p class="quiet">{escape(line)}</p>' if line else ""


def _data(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
