"""How large is the loss at a noise level? One number for each, learned during training, for `with_uncertainty`."""

import flax.linen as nn
from flax.linen import initializers

from diffusion_jax.models.embeddings import log_snr_features
from diffusion_jax.types import LogSnr


class Uncertainty(nn.Module):
    """log_snr -> u, the logarithm of the loss that is expected there: Fourier features and a linear layer without bias.

    EDM2 (Karras et al. 2024, Appendix B.2) has random frequencies and random weights of fixed length. Here the
    frequencies are those that the denoiser is told its level by, and u starts at zero, where `with_uncertainty` is the
    plain loss. It is thrown away after training.
    features: even.
    """

    features: int = 128

    @nn.compact
    def __call__(self, log_snr: LogSnr) -> LogSnr:
        waves = log_snr_features(log_snr, self.features)
        return nn.Dense(1, use_bias=False, kernel_init=initializers.zeros, name="out")(waves)[:, 0]
