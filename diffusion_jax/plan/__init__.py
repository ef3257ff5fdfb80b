"""What a training would need and cost on many devices, counted on a machine that has none of them."""

from pathlib import Path

from ml_collections import ConfigDict

from diffusion_jax.files import write_json
from diffusion_jax.plan import page, prediction


def report(
    config: ConfigDict,
    devices: int,
    kind: str,
    utilization: float,
    images: int | None,
    price: float | None,
    out: str | None,
) -> dict:
    """Print the plan, and write it to `out` as JSON; returns its figures. See `prediction`."""
    found = prediction.figures(config, devices, kind, utilization, images, price)
    print(page.page(found))
    if out is not None:
        write_json(Path(out), found)
    return found
