"""What a config's `lora` entry may not be, in one line each."""

import pytest
from ml_collections import ConfigDict

from diffusion_jax import build


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("all", r"config.lora: it is 'all': write dict\(rank=8, alpha=8.0, where='denoiser/'\)"),
        (dict(rank=2, alpha=2.0), "config.lora: it is .*: write dict"),
        (dict(rnak=2, alpha=2.0, where=""), "config.lora: it is .*'rnak': 2.*: write dict"),
        (dict(rank=2.0, alpha=2.0, where=""), "config.lora: rank is 2.0: it is an integer"),
        (dict(rank=True, alpha=2.0, where=""), "config.lora: rank is True"),
        (dict(rank=2, alpha="2", where=""), "config.lora: alpha is '2': it is a number"),
        (dict(rank=2, alpha=0, where=""), "config.lora: alpha is 0: use a positive number"),
        (dict(rank=2, alpha=float("nan"), where=""), "config.lora: alpha is nan"),
        (dict(rank=2, alpha=2, where=None), "config.lora: where is None: it is a regular expression"),
        (dict(rank=-2, alpha=2, where=""), "config.lora: rank is -2: use 1 or more"),
        (dict(rank=2, alpha=2, where="(q"), "config.lora: where='\\(q' is no regular expression"),
        (dict(rank=2, alpha=2, where="unet"), "config.lora: where='unet' is found in none of 42 kernels"),
        (dict(rank=90, alpha=2, where="q/"), "config.lora: rank 90 is above a side of text_encoder/block_0/"),
        (
            dict(rank=2, alpha=2, where=""),
            "config.lora: the denoiser and the text_encoder would begin ",
        ),
        (dict(rank=2, alpha=2, where="/q/"), "config.lora: the text_encoder would begin .* set config.begin"),
    ],
)
def test_an_entry_that_does_not_fit(config, value, line):
    with pytest.raises(ValueError, match=line) as raised:
        build.build(ConfigDict(config.to_dict() | {"lora": value}))
    assert "\n" not in str(raised.value)
