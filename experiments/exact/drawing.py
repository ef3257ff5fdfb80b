"""What the ablations on exact answers share: the data, and how a result is written down.

The data are pictures of colored shapes with a little normal noise around each, a law whose denoiser E[x_0 | x] is a
formula. So every difference that is found is that of the method, and no network's.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from diffusion_jax.data import sources
from diffusion_jax.diffusion import oracle
from diffusion_jax.files import write_whole

SIDE, PICTURES, NOISE = 16, 64, 0.1


def shapes() -> oracle.Oracle:
    """64 pictures of 16 pixels in [-1, 1], each with normal noise of deviation 0.1 around it."""
    source = sources.shapes("train", size=SIDE)
    pictures = np.stack([source[index]["image"] for index in range(PICTURES)])
    return oracle.dataset(jnp.asarray(pictures, jnp.float32) / 127.5 - 1, NOISE)


def write(folder: str | Path, name: str, figure: Figure, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """NAME.png and NAME.csv in the folder, and the table on the screen, numbers with three digits."""
    rows = [[f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    write_whole(Path(folder) / f"{name}.csv", lambda file: file.write(text.getvalue().encode()))
    write_whole(Path(folder) / f"{name}.png", lambda file: figure.savefig(file, format="png", dpi=110))
    print(f"look at {Path(folder) / name}.png")
