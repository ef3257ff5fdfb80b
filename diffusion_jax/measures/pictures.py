"""Are the drawn pictures what their captions say, and are they like real ones?"""

import numpy as np

from diffusion_jax import config as entries
from diffusion_jax.data import shapes_parser
from diffusion_jax.evaluation import distances, feature_distances, vit_features
from diffusion_jax.measures import networks
from diffusion_jax.measures.contract import Drawn, Figure, Found, Measure, Subject

POINTS = 0.02  # of a share: two captions in a hundred more or less
ALIGNED = dict(
    caption="captions whose picture shows all that they say and nothing else",
    color="captions whose colors are right",
    shape="captions whose shapes are right",
    count="captions whose number of objects is right",
    relation="captions whose place or relation is right",
)


def alignment(subject: Subject, part: str = "caption") -> Measure:
    """The share of held-out captions of shapes that their drawn pictures obey, read exactly from the pixels.

    part: of a caption, which comes first, so that it may decide; the others are measured too.
    Raises ValueError for another data set, whose pictures cannot be read so, and for a part that is none.
    """
    if part not in ALIGNED:
        raise ValueError(f"alignment has no part {part!r}: it has {', '.join(ALIGNED)}")
    parts = sorted(ALIGNED, key=lambda name: name != part)
    held_out = subject.sets["validation"]
    if subject.config.data.name != "shapes":
        raise ValueError(f"alignment reads pictures of shapes, and data is {subject.config.data.name}")
    floor = shapes_parser.alignment(held_out["image"], held_out["captions"])

    def measure(params, seed: int, drawn: Drawn) -> Found:
        scores = shapes_parser.alignment(drawn(), held_out["captions"])
        about = dict(better="higher", n=len(held_out["captions"]), of="held-out captions", relevant_of="one")
        return Found(
            {
                name: Figure(scores[name], f"share of {ALIGNED[name]}", relevant=POINTS, floor=floor[name], **about)
                for name in parts
                if name in scores
            }
        )

    return measure


def pixels(subject: Subject) -> Measure:
    """How far the pixels of drawn pictures are, as a law, from those of real ones: energy and sliced distance.

    No network has a say in it, and it sees little of what people see. Real are pictures of the training set.
    """
    real = _scaled(subject.sets["seen"]["image"])
    others = _scaled(subject.sets["validation"]["image"])
    n = min(len(real), len(others))
    kinds = dict(energy=distances.energy_distance, sliced_w2=distances.sliced_w2)
    titles = dict(energy="energy distance of pixels", sliced_w2="sliced squared W2 distance of pixels")
    floors = {name: distance(others[:n], real[:n]).value for name, distance in kinds.items()}

    def measure(params, seed: int, drawn: Drawn) -> Found:
        made = _scaled(drawn())[:n]
        return Found(
            {
                name: Figure(
                    distance(made, real[:n]).value, titles[name], "lower", n, "drawn and as many real pictures",
                    floor=floors[name],
                )
                for name, distance in kinds.items()
            }
        )  # fmt: skip

    return measure


def features(subject: Subject, network: dict | None = None, k: int = 5) -> Measure:
    """Distances between drawn and real pictures in a network's features: KID, Frechet, and who lies within reach.

    network: a function of `networks`, with its arguments; EfficientNet-Lite0 unless given.
    k: of the k nearest neighbors. KID comes first: it has no bias at few pictures, and the Frechet distance has much.
    """
    known = entries.bind(network or dict(name="efficientnet_lite0"), networks)()
    sets = subject.sets
    n = min(len(sets["seen"]["image"]), len(sets["validation"]["image"]))
    real, others = (known.extract(np.asarray(sets[name]["image"][:n])) for name in ("seen", "validation"))
    reference = feature_distances.moments(real)

    def figures_of(made: np.ndarray) -> dict[str, float]:
        near = feature_distances.neighborhoods(real, made, k)
        return dict(
            kid=feature_distances.kid(made, real).value,
            frechet=feature_distances.fd(feature_distances.moments(made), reference),
            **near._asdict(),
        )

    floors = figures_of(others)
    told = f"{known.name} {known.digest[:12]}"

    def measure(params, seed: int, drawn: Drawn) -> Found:
        found = figures_of(known.extract(drawn()[:n]))
        lower = ("kid", "frechet")
        return Found(
            {
                name: Figure(
                    value, f"{name} of features", "lower" if name in lower else "higher", n,
                    "drawn and as many real pictures", 0.05 if name in lower else POINTS,
                    "mean" if name in lower else "one", floors[name], told,
                )
                for name, value in found.items()
            }
        )  # fmt: skip

    return measure


def clip_score(subject: Subject, folder: str) -> Measure:
    """How near pictures and their captions are to CLIP, 100 max(cosine, 0), the mean over held-out captions.

    folder: of a CLIPModel as Hugging Face saves it. Raises as `vit_features.clip` does.
    """
    held_out = subject.sets["validation"]
    known, captions = vit_features.clip(folder), list(held_out["captions"])
    told = vit_features.clip_captions(folder)(captions)

    def score(pictures: np.ndarray) -> float:
        return float(vit_features.clip_scores(known.extract(np.asarray(pictures)), told).mean())

    floor = score(held_out["image"])
    about = dict(title="CLIP score", better="higher", n=len(captions), of="held-out captions", relevant_of="one")
    about |= dict(relevant=0.5, floor=floor, features=f"{known.name} {known.digest[:12]}")

    def measure(params, seed: int, drawn: Drawn) -> Found:
        return Found({"mean": Figure(score(drawn()), **about)})

    return measure


def _scaled(pictures: np.ndarray) -> np.ndarray:
    """uint8 to [-1, 1], a row each."""
    return np.asarray(pictures, np.float64).reshape(len(pictures), -1) / 127.5 - 1
