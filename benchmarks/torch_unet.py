"""diffusion_jax's UNet out of diffusers' parts, and its parameters under PyTorch's names."""

import math

import numpy as np
import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from torch import nn
from torch.nn import functional as F

FASTEST, SLOWEST = 8.0, 1 / 16  # of the waves of log_snr, as in diffusion_jax.models.embeddings


def groups_of(channels: int) -> int:
    return next(g for g in range(min(32, channels), 0, -1) if channels % g == 0)


def residual(c_in: int, c_out: int, dim: int, up: bool = False, down: bool = False) -> ResnetBlock2D:
    return ResnetBlock2D(
        in_channels=c_in, out_channels=c_out, temb_channels=dim, groups=groups_of(c_in), groups_out=groups_of(c_out),
        eps=1e-5, time_embedding_norm="scale_shift", up=up, down=down,
    )  # fmt: skip


def attention(channels: int, head_dim: int, text_dim: int | None = None) -> Attention:
    heads = max(channels // head_dim, 1)
    return Attention(
        channels, text_dim, heads=heads, dim_head=channels // heads, bias=text_dim is None, residual_connection=True,
        norm_num_groups=groups_of(channels), cross_attention_norm=None if text_dim is None else "layer_norm",
    )  # fmt: skip


class Stage(nn.Module):
    """A residual block, and the attention that this resolution has."""

    def __init__(self, c_in, c_out, height, dim, text_dim, shape):
        super().__init__()
        self.residual = residual(c_in, c_out, dim)
        self.self_attention = attention(c_out, shape["head_dim"]) if height in shape["self_attention"] else None
        crossed = height in shape["cross_attention"]
        self.cross_attention = attention(c_out, shape["head_dim"], text_dim) if crossed else None

    def forward(self, x, vector, text, mask):
        x = self.residual(x, vector)
        if self.self_attention is not None:
            x = self.self_attention(x)
        if self.cross_attention is not None:
            x = self.cross_attention(x, encoder_hidden_states=text, attention_mask=mask)
        return x


class Condition(nn.Module):
    """log_snr and pooled text as one vector."""

    def __init__(self, dim: int, text_dim: int, features: int = 128):
        super().__init__()
        exponents = torch.linspace(math.log(SLOWEST), math.log(FASTEST), features // 2)
        self.register_buffer("frequencies", exponents.exp(), persistent=False)
        self.log_snr_in, self.log_snr_out = nn.Linear(features, dim), nn.Linear(dim, dim)
        self.text_norm = nn.LayerNorm(text_dim, eps=1e-6)
        self.text_in, self.text_out = nn.Linear(text_dim, dim), nn.Linear(dim, dim)

    def forward(self, log_snr, text, seen):
        angles = log_snr[:, None] * self.frequencies
        level = self.log_snr_out(F.silu(self.log_snr_in(torch.cat([angles.sin(), angles.cos()], 1))))
        seen = seen[:, :, None].to(text.dtype)
        pooled = (text * seen).sum(1) / seen.sum(1).clamp(min=1)
        return level + self.text_out(F.silu(self.text_in(self.text_norm(pooled))))


class UNet(nn.Module):
    """shape: the arguments of diffusion_jax's UNet. Pictures are (batch, channel, height, width)."""

    def __init__(self, shape: dict, resolution: int, text_dim: int):
        super().__init__()
        self.shape = shape = {"blocks": 2, "resample": "residual", "patch": 1, "head_dim": 64, **shape}
        channels, multipliers, patch = shape["channels"], shape["multipliers"], shape["patch"]
        dim, height = 4 * channels, resolution // patch
        cheap = shape["resample"] == "convolution"
        self.condition = Condition(dim, text_dim)
        self.parts = nn.ModuleDict()
        self.plan = []  # (name, what becomes of the skips): as many lines as the network has parts

        def add(name, part, skips=""):
            self.parts[name] = part
            self.plan.append((name, skips))

        add("conv_in", nn.Conv2d(3 * patch**2, channels, 3, padding=1), "push")
        widths, width = [channels], channels
        for level, multiplier in enumerate(multipliers):
            if level > 0:
                halve = (
                    Downsample2D(width, use_conv=True, padding=0, name="op")
                    if cheap
                    else residual(width, width, dim, down=True)
                )
                add(f"down_{level}_halve", halve, "push")
                height //= 2
                widths.append(width)
            for block in range(shape["blocks"]):
                add(f"down_{level}_{block}", Stage(width, multiplier * channels, height, dim, text_dim, shape), "push")
                width = multiplier * channels
                widths.append(width)
        add("middle_0", Stage(width, width, height, dim, text_dim, shape))
        add("middle_1", residual(width, width, dim))
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for block in range(shape["blocks"] + 1):
                stage = Stage(width + widths.pop(), multiplier * channels, height, dim, text_dim, shape)
                add(f"up_{level}_{block}", stage, "pop")
                width = multiplier * channels
            if level > 0:
                new = channels * multipliers[level - 1 if cheap else level]
                double = nn.Conv2d(width, new, 3, padding=1) if cheap else residual(width, new, dim, up=True)
                add(f"up_{level}_double", double)
                height, width = 2 * height, new
        add("norm_out", nn.GroupNorm(groups_of(width), width, eps=1e-5))
        add("conv_out", nn.Conv2d(width, 3 * patch**2, 3, padding=1))

    def forward(self, x, log_snr, text, seen):
        mask = torch.zeros_like(seen, dtype=text.dtype).masked_fill(~seen, -1e9)[:, None, :]
        vector = self.condition(log_snr, text, seen)
        x = cut(x, self.shape["patch"])
        skips = []
        for name, what in self.plan:
            part = self.parts[name]
            if what == "pop":
                x = torch.cat([x, skips.pop()], 1)
            if isinstance(part, Stage):
                x = part(x, vector, text, mask)
            elif isinstance(part, ResnetBlock2D):
                x = part(x, vector)
            else:
                x = part(x)
            if name.endswith("_double") and isinstance(part, nn.Conv2d):
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            if name == "norm_out":
                x = F.silu(x)
            if what == "push":
                skips.append(x)
        return mend(x, self.shape["patch"]).float()


def cut(x: torch.Tensor, patch: int) -> torch.Tensor:
    """patch x patch squares as channels, in the order (row, column, channel)."""
    b, c, h, w = x.shape
    x = x.reshape(b, c, h // patch, patch, w // patch, patch).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(b, patch * patch * c, h // patch, w // patch).contiguous(memory_format=torch.channels_last)


def mend(x: torch.Tensor, patch: int) -> torch.Tensor:
    """The inverse of `cut`."""
    b, c, h, w = x.shape
    x = x.reshape(b, patch, patch, c // patch**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(b, c // patch**2, h * patch, w * patch)


PARTS = {
    "residual": {
        "norm_in": "norm1", "conv_in": "conv1", "film": "time_emb_proj", "norm_out": "norm2", "conv_out": "conv2",
        "skip": "conv_shortcut",
    },
    "self_attention": {"norm": "group_norm", "qkv": "to_q to_k to_v", "out": "to_out.0"},
    "cross_attention": {
        "norm": "group_norm", "text_norm": "norm_cross", "query": "to_q", "key_value": "to_k to_v", "out": "to_out.0",
    },
}  # fmt: skip


def state_dict_of(params: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """{"down_0_0/residual/conv_in/kernel": array} as what `UNet.load_state_dict` takes; gradients likewise."""
    state = {}
    for path, array in params.items():
        *where, layer, leaf = path.split("/")
        kind = where[-1] if where and where[-1] in PARTS else "residual" if where and where[0] != "condition" else None
        layers = PARTS[kind][layer].split() if kind else [layer]
        if not where and layer.endswith("_halve"):
            layers = [f"{layer}.conv"]
        home = ".".join([*(["parts"] if not where or where[0] != "condition" else []), *where])
        for name, piece in zip(layers, np.split(array, len(layers), axis=-1), strict=True):
            if leaf == "kernel":
                piece = piece.transpose(3, 2, 0, 1) if piece.ndim == 4 else piece.T
                piece = piece[:, :, None, None] if name == "conv_shortcut" else piece
            state[f"{home}.{name}.{'bias' if leaf == 'bias' else 'weight'}"] = torch.tensor(piece)
    return state
