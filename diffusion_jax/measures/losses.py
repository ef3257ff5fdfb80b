"""Does the denoiser err less on pictures that it has not seen, and does it listen? Nothing is drawn for that."""

import numpy as np

from diffusion_jax import watching
from diffusion_jax.measures.contract import Curve, Drawn, Figure, Found, Measure, Subject


def held_out(subject: Subject) -> Measure:
    """The error in v on held-out pictures at fixed levels, the mean of these, and what wrong captions add to it.

    v = alpha_t eps - sigma_t x_0 has the scale of a picture at every level, so no level outweighs the others: an error
    of 1 is about what a network makes that says nothing. All models see the same pictures, noise and levels.
    """
    size = len(subject.sets["validation"]["captions"])
    validate = watching.make_validation(subject.experiment, subject.sets, size, subject.config.batch_size)

    def measure(params, seed: int, drawn: Drawn) -> Found:
        record = validate(params)
        levels = np.asarray(record["validation/log_snr"])
        to_v = 1 + np.exp(levels)  # the square of 1 / sigma_t where alpha_t^2 + sigma_t^2 = 1
        by_level = {
            f"{title}/{kind}": np.asarray(record[f"{title}/{kind}_by_level"]) * to_v
            for title in ("validation", "seen")
            for kind in ("matched", "shuffled")
        }
        matched, shuffled = (by_level[f"validation/{kind}"] for kind in ("matched", "shuffled"))
        of = f"held-out pictures at {len(levels)} levels"
        error = Figure(matched.mean(), "error in v on held-out pictures", "lower", size, of, relevant=0.02)
        gap = Figure((shuffled - matched).mean(), "error in v that wrong captions add", "higher", size, of, 0.1)
        seen = Figure(by_level["seen/matched"].mean(), "error in v on training pictures", "lower", size, of, 0.02)
        axes = dict(x_title="log_snr", y_title="error in v", x=levels.tolist())
        return Found(
            {"error": error, "caption_gap": gap, "error_on_seen": seen},
            {
                "by_level": Curve("error in v by level, held-out pictures", y=matched.tolist(), **axes),
                "gap_by_level": Curve("what wrong captions add, by level", y=(shuffled - matched).tolist(), **axes),
            },
        )

    return measure
