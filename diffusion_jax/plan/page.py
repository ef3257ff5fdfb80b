"""The figures of a plan as a page to read."""


def page(figures: dict) -> str:
    """Lines of text; every assumption stands beside the figure that rests on it."""
    of, work, need = figures, figures["flop"], figures["memory"]
    mesh = " x ".join(f"{name}={size}" for name, size in of["mesh"].items())
    at_once = of["pictures at once on each device"]
    lines = [
        f"{of['devices']} x {of['kind']} ({mesh}), batches of {of['batch_size']:,}, {at_once} at once on each device",
        "",
        row("parameters", of["parameters"], ""),
        row("FLOP of a step", work["total"], f"{work['of each picture'] / 1e9:,.1f} G for each picture"),
        row("  matrix products", work["products"], f"{work['products'] / max(work['total'], 1):.1%}"),
        row("  other arithmetic", work["other"], ""),
        "",
        "Memory of each device; the state is exact, gradients and activations are predicted",
        *(f"{size / 2**30:>12.2f} GiB  {name}" for name, size in need.items()),
        f"{of['memory of a device'] / 2**30:>12.2f} GiB  there are, of which 90% can be planned with",
        verdict(of),
        "",
        f"Time at {of['utilization']:.0%} of {of['peak'] / 1e12:,.0f} TFLOP/s, an assumption: "
        "`diffusion-jax bench train` measures it",
        f"{of['seconds of a step']:>12.3f} s    a step, {of['batch_size'] / of['seconds of a step']:,.0f} images/s",
        f"{of['days']:>12.2f} days for {of['images']:,} images, {of['steps']:,.0f} steps",
        f"{of['device hours']:>12,.0f} device hours",
        f"{of['dollars']:>12,.0f} dollars at {of['price']:.2f} for an hour of a device, an assumption: see --price",
    ]
    if work["endless"]:
        lines.append(f"{work['endless']} loops do not say how often they turn; they are counted as one turn")
    return "\n".join(lines)


def row(name: str, number: float | int, note: str) -> str:
    """A name, a number of any size, and a remark."""
    for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if number >= size:
            return f"{number / size:>12,.2f} {unit}    {name}" + (f", {note}" if note else "")
    return f"{number:>12,.0f}      {name}" + (f", {note}" if note else "")


def verdict(of: dict) -> str:
    """Whether it fits, and what would."""
    most, parts = of["largest"]["pictures at once on each device"], of["mesh"]["data"] * of["mesh"]["fsdp"]
    if most < 1:
        fsdp = of["smallest fsdp whose state fits"]
        way = (
            f"with config.parallel.mesh.fsdp={fsdp} state, gradients and gathered parameters would"
            if fsdp
            else "no fsdp is enough"
        )
        return f"It does not fit, not even with one picture at once on each device: {way}"
    largest = f"{most:,} pictures at once on each device, {most * parts:,} in all, are the most that do"
    if of["fits"]:
        return f"It fits: {largest}"
    if not of["largest"]["microbatch"]:
        return f"It does not fit: {largest}"
    return f"It does not fit: {largest}; config.microbatch={of['largest']['microbatch']} would, with the same batch"
