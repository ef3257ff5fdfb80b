"""The worker that is PyTorch with diffusers' parts; see against_diffusers.py."""

import copy
import json
import math
import sys
from pathlib import Path

import diffusers
import torch
from safetensors.numpy import load_file
from torch.nn import functional as F
from torch_unet import UNet, state_dict_of
from worker import serve

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def operations(folder: Path) -> tuple[dict, dict]:
    """What diffusion_jax left in the folder, computed here; and how far the two results are apart."""
    case = json.loads((folder / "case.json").read_text())
    network = UNet(case["unet"], case["resolution"], case["text_dim"])
    network.load_state_dict(state_dict_of(load_file(folder / "params.safetensors")))
    network.to(DEVICE, memory_format=torch.channels_last)
    arrays = {name: torch.tensor(array).to(DEVICE) for name, array in load_file(folder / "arrays.safetensors").items()}
    for name in ("x_t", "v", "x_0", "eps", "pictures"):
        arrays[name] = arrays[name].permute(0, 3, 1, 2)  # NHWC in memory is what PyTorch calls channels_last
    log_snr, text, seen = arrays["log_snr"], arrays["text"], arrays["mask"].bool()
    both = (torch.cat([text, torch.zeros_like(text)]), torch.cat([seen, seen[:1].expand_as(seen)]))
    low = torch.autocast(DEVICE, torch.bfloat16, enabled=case["dtype"] == "bfloat16")
    run = torch.compile(network) if case["compile"] else network

    @torch.inference_mode()
    def forward():
        network.eval()
        with low:
            return run(arrays["x_t"], log_snr, text, seen)

    @torch.inference_mode()
    def sample():
        network.eval()
        sigmas = arrays["sigmas"].tolist()
        x = arrays["eps"] * sigmas[0]
        for sigma, following in zip(sigmas, [*sigmas[1:], None], strict=True):
            alpha_t, sigma_t = 1 / math.hypot(1, sigma), sigma / math.hypot(1, sigma)
            x_t = (alpha_t * x).repeat(2, 1, 1, 1).contiguous(memory_format=torch.channels_last)
            level = torch.full((len(x_t),), -2 * math.log(sigma), device=DEVICE)
            with low:
                with_text, without = (alpha_t * x_t - sigma_t * run(x_t, level, *both)).chunk(2)
            x_0 = with_text + 2.0 * (with_text - without)
            x = x_0 if following is None else x_0 + following / sigma * (x - x_0)
        return x

    def loss_of(eps, log_snr):
        alpha_t, sigma_t = (torch.sigmoid(s * log_snr).sqrt()[:, None, None, None] for s in (1, -1))
        x_t = alpha_t * arrays["x_0"] + sigma_t * eps
        with low:
            v = run(x_t, log_snr, text, seen)
        return F.mse_loss(v, alpha_t * eps - sigma_t * arrays["x_0"])

    network.train()
    value = loss_of(arrays["eps"], log_snr)
    value.backward()
    gradients = {
        name: gradient.to(DEVICE)
        for name, gradient in state_dict_of(load_file(folder / "gradients.safetensors")).items()
    }
    least = 1e-2 * max(gradient.abs().max() for gradient in gradients.values())  # some are zero but for rounding
    distances = {
        "network": apart(forward(), arrays["v"]),
        "pictures": apart(sample(), arrays["pictures"]),
        "loss": apart(value.detach(), arrays["loss"]),
        "gradients": max(apart(p.grad, gradients[name], least) for name, p in network.named_parameters()),
    }

    train = make_train(network, arrays["x_0"], loss_of)
    return {
        name: finished(call) for name, call in (("forward", forward), ("sample", sample), ("train", train))
    }, distances


def make_train(network: UNet, x_0: torch.Tensor, loss_of):
    """One training step: loss at random levels, gradient, clip, AdamW, moving average."""
    weights = [p for p in network.parameters() if p.ndim >= 2]
    others = [p for p in network.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": weights}, {"params": others}], lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, fused=True
    )
    parameters = [p.data for p in network.parameters()]
    averages = copy.deepcopy(parameters)

    def train():
        network.train()
        optimizer.zero_grad()
        eps = torch.randn_like(x_0)
        levels = -2 * torch.log(torch.tan(math.pi / 2 * torch.rand(len(eps), device=DEVICE).clamp(1e-3, 1 - 1e-3)))
        loss = loss_of(eps, levels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        torch._foreach_lerp_(averages, parameters, 1e-3)
        return loss.item()

    return train


def apart(ours: torch.Tensor, theirs: torch.Tensor, least: float = 0.0) -> float:
    """The largest difference, as a share of the largest value, or of `least` where that is larger."""
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=least))


def finished(call):
    """The call, and the wait for what it left to do on an accelerator."""

    def wait():
        call()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    return wait


if __name__ == "__main__":
    calls, distances = operations(Path(sys.argv[1]))
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else f"{torch.get_num_threads()} CPU threads"
    serve(calls, f"torch {torch.__version__}, diffusers {diffusers.__version__}, {device}", distances=distances)
