"""How far is a sampler from what it approximates? For each noise, the picture that the ODE leads to exactly."""

import hashlib
import json

import jax
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import config as entries
from diffusion_jax import drawing
from diffusion_jax.measures.contract import Drawn, Figure, Found, Measure, Subject

AT_ONCE = 64
_solutions: dict[tuple, np.ndarray] = {}  # of this process: arms that differ in their sampler alone share them


def solved(subject: Subject, sampler: str = "heun", nfe: int = 127) -> Measure:
    """The root mean square between drawn pictures and those of a long run from the same noise, in units of [-1, 1].

    sampler, nfe: of the long run, whose grid has the kind and the ends of config.sampling, and whose guidance is that.
    What a sampler that adds noise draws is no solution of the ODE, and far from it however long it takes.
    """
    captions = list(subject.sets["validation"]["captions"])
    first = len(subject.config.sampling.prompts)  # pictures of captions are numbered after those of the prompts
    longer = ConfigDict(subject.config.sampling.to_dict() | dict(sampler=dict(name=sampler), nfe=nfe))
    draw = drawing.make_drawing(subject.experiment, longer, min(len(captions), AT_ONCE))
    told = json.dumps([entries.as_json(longer), captions])

    def measure(params, seed: int, drawn: Drawn) -> Found:
        which = (told, seed, fingerprint(params))
        if which not in _solutions:
            numbers = range(first, first + len(captions))
            _solutions[which] = draw(params, captions, seed, numbers, watched=()).pictures
        apart = (drawn().astype(float) - _solutions[which]) / 127.5
        error = float(np.sqrt(np.mean(np.square(apart))))
        title = f"root mean square from {sampler} with {nfe} calls"
        return Found({"error": Figure(error, title, "lower", len(captions), "pictures drawn from the same noise", 0.1)})

    return measure


def fingerprint(params) -> str:
    """Parameters in 32 hexadecimal digits."""
    known = hashlib.blake2b(digest_size=16)
    for leaf in jax.tree.leaves(params):
        known.update(np.ascontiguousarray(leaf))
    return known.hexdigest()
