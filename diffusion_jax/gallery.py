"""Pictures for people: of sentences, of how they come out of noise, and of how a picture is destroyed."""

import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import drawing, trained
from diffusion_jax.data import transforms
from diffusion_jax.diffusion import schedules
from diffusion_jax.evaluation import images, lettering

FRAMES = 10  # of a strip
GIF_FRAMES = 48  # at most


def read_prompts(prompts: Sequence[str], path: str | None) -> list[str]:
    """The prompts given, then those of a file, a line each. Raises where they are not text, or the file holds none."""
    found = list(prompts)
    for prompt in found:
        if any("\ud800" <= letter <= "\udfff" for letter in prompt):  # how Python keeps bytes that are no text
            raise ValueError(f"--prompt={ascii(prompt)[:80]} is not UTF-8: type it again, or put it into a file")
    if path is not None:
        try:
            lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
        except FileNotFoundError:
            raise FileNotFoundError(f"no prompt file {path}") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from None
        found += [line.strip() for line in lines if line.strip()]
        if not found:
            raise ValueError(f"{path} holds no prompt: write one a line")
    return found


def draw(
    prompts: Sequence[str],
    out: str | Path,
    *,
    workdir: str | None = None,
    pretrained: str | None = None,
    beside: str | None = None,
    count: int = 1,
    seed: int = 0,
    sampler: str | None = None,
    nfe: int | None = None,
    cfg_scale: float | None = None,
    negative: str = "",
) -> Path:
    """Draw `count` pictures of each prompt, or of each of the config's own, into the folder `out`, which it returns.

    Writes PROMPT_NUMBER.png for each, grid.png, and strip_PROMPT.png and .gif of the first picture of each prompt; and
    beside.png, the grid above that of the same prompts drawn by the shipped weights called `beside`.
    Raises ValueError for a count, nfe or scale that is out of range; OSError where `out` cannot be written.
    """
    if count < 1:
        raise ValueError(f"--count={count}: draw at least one picture")
    if cfg_scale is not None and not np.isfinite(cfg_scale):
        raise ValueError(f"--cfg_scale={cfg_scale} is no finite number: 1 is no guidance, 3 to 7 are usual")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)  # first: a folder that cannot be made is known before minutes of drawing
    model = trained.load(workdir, pretrained)
    other = beside and trained.load(None, beside)
    prompts = list(prompts) or list(model.config.sampling.prompts)
    if not prompts:
        raise ValueError("nothing to draw: give --prompt=TEXT, or --prompts=FILE with a prompt a line")
    for prompt in prompts:
        if model.experiment.text.truncated([prompt]):
            print(f"too long, only its beginning is read: {lettering.plain(prompt)[:40]}...", file=sys.stderr)
    every = [prompt for prompt in prompts for _ in range(count)]
    numbers = [number for _ in prompts for number in range(count)]
    columns = count * max(8 // count, 1) if count > 1 else None  # the pictures of a prompt stay together

    def drawn_by(model: trained.Trained, watched: Sequence[int]):
        sampling = changed(model.config.sampling, sampler, nfe)
        scale = sampling.cfg_scale if cfg_scale is None else cfg_scale
        draw_pictures = drawing.make_drawing(model.experiment, sampling)
        drawn = draw_pictures(model.params, every, seed, numbers, negative, scale, watched)
        how = f"seed {seed}, {sampling.sampler.name}, {sampling.nfe} network calls, guidance {scale:g}"
        return drawn, images.grid(drawn.pictures, captions=every, columns=columns, header=f"{model.name}: {how}")

    drawn, grid = drawn_by(model, range(0, len(every), count))
    names = file_names(prompts)
    for i, picture in enumerate(drawn.pictures):
        images.write_png(out / f"{names[i // count]}_{numbers[i]}.png", picture)
    images.write_png(out / "grid.png", grid)
    for i, (name, prompt) in enumerate(zip(names, prompts, strict=True)):
        write_strip(
            out, f"strip_{name}", {"x": drawn.noisy[:, i], "estimate": drawn.estimates[:, i]}, drawn.sigmas, prompt
        )
    if other:
        images.write_png(out / "beside.png", images.stacked([grid, drawn_by(other, ())[1]]))
    shown = out / ("beside.png" if other else "grid.png")
    print(f"{len(every)} pictures of {len(prompts)} prompts in {out}/: look at {shown}")
    return out


def changed(sampling: ConfigDict, sampler: str | None, nfe: int | None) -> ConfigDict:
    """A config's way of sampling with another sampler or another number of network calls."""
    sampling = ConfigDict(sampling.to_dict())
    if sampler is not None:
        sampling.sampler = ConfigDict(dict(name=sampler))
    if nfe is not None:
        sampling.nfe = nfe
    return sampling


def file_names(prompts: Sequence[str]) -> list[str]:
    """A short name for each prompt, of letters, digits and underscores; no two alike, and none that a strip has."""
    names: list[str] = []
    for prompt in prompts:
        name = re.sub(r"[^a-z0-9]+", "_", prompt.lower()).strip("_")[:40].strip("_") or "picture"
        name = f"a_{name}" if name.startswith("strip") else name
        names.append(next(one for one in numbered(name) if one not in names))
    return names


def numbered(name: str) -> Iterator[str]:
    """The name, then name_1x, name_2x, ...: with a letter, since pictures of one prompt are numbered too."""
    yield name
    yield from (f"{name}_{number}x" for number in itertools.count(1))


def write_strip(out: Path, name: str, rows: dict[str, np.ndarray], sigmas: np.ndarray, header: str) -> None:
    """A strip as NAME.png and, with more of its frames, one after the other, as NAME.gif."""
    labels = [f"σ {sigma:.3g}" for sigma in sigmas]
    images.write_png(out / f"{name}.png", images.strip(rows, labels, columns=FRAMES, header=header))
    shown = np.unique(np.rint(np.linspace(0, len(labels) - 1, min(GIF_FRAMES, len(labels)))).astype(int))
    captions = ([f"{row}, {labels[i]}" for row in rows] for i in shown)
    pairs = (np.stack([frames[i] for frames in rows.values()]) for i in shown)
    frames = [images.grid(pair, captions=text, columns=len(rows)) for pair, text in zip(pairs, captions, strict=True)]
    images.write_gif(out / f"{name}.gif", frames)


def destroy(
    picture: str | Path, out: str | Path, seed: int = 0, workdir: str | None = None, pretrained: str | None = None
) -> Path:
    """The forward process on one picture, as strip_destroyed.png and .gif in `out`, which it returns.

    The noise levels are uniform in the time of the model's schedule, or of the cosine one where no model is given; the
    noise is one draw, so each frame adds to the frame before it.
    """
    try:
        pixels = transforms.square(transforms.decode(Path(picture).read_bytes()), 128)
    except FileNotFoundError:
        raise FileNotFoundError(f"no picture {picture}") from None
    except ValueError as error:
        raise ValueError(f"{picture}: {error}") from error
    given = workdir or pretrained
    schedule = trained.load(workdir, pretrained).experiment.schedule if given else schedules.cosine()
    log_snr = schedule.log_snr(jnp.linspace(0.0, 1.0, 24))
    alpha_t, sigma_t = (np.asarray(c)[:, None, None, None] for c in schedules.variance_preserving(log_snr))
    eps = np.asarray(jax.random.normal(jax.random.key(seed), pixels.shape))
    noisy = images.to_uint8(alpha_t * (pixels / 127.5 - 1) + sigma_t * eps)
    sigmas = np.exp(-0.5 * np.asarray(log_snr))
    write_strip(Path(out), "strip_destroyed", {"x": noisy}, sigmas, f"{picture}, seed {seed}")
    print(f"look at {Path(out) / 'strip_destroyed.png'}")
    return Path(out)
