"""From the folder of a sweep to a page: what was asked, what was found, how sure that is, and how to do it again."""

from pathlib import Path

from diffusion_jax.files import written_together
from diffusion_jax.report import findings, judged, markdown, page, plots, tables


def report(sweep: str, workdir: str = "runs/sweeps") -> Path:
    """Write SWEEP/report/: report.html, report.md, CSV files and figures, all of them or none; returns that folder.

    sweep: its folder, or its file, whose folder is in workdir. Prints what was found in a few lines.
    Raises FileNotFoundError where there is no sweep, ValueError where nothing was measured yet.
    """
    folder = Path(sweep)
    folder = Path(workdir) / folder.stem if folder.is_file() else folder
    found = findings.read(folder)
    results = judged.results(found)
    figures = plots.all_of(found, results)
    home = folder / "report"
    with written_together(home) as beside:
        (beside / "report.html").write_text(page.html(found, results, figures), "utf-8")
        (beside / "report.md").write_text(markdown.text(found, results, figures), "utf-8")
        for name, text in tables.csv_files(found, results).items():
            (beside / f"{name}.csv").write_text(text, "utf-8")
        for figure in figures:
            (beside / f"{figure.name}.svg").write_bytes(figure.svg)
            (beside / f"{figure.name}.png").write_bytes(figure.png)
            (beside / f"{figure.name}.csv").write_text(figure.data, "utf-8")
        kept = {path.name for path in beside.iterdir()}
    for old in {path for path in home.iterdir() if path.name not in kept and path.suffix in (".csv", ".svg", ".png")}:
        old.unlink()  # of a report that had other figures
    print("\n".join([*judged.sentences_of(found, results[0]), f"{home / 'report.html'}"]))
    return home
