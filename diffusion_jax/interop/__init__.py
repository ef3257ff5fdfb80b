"""Other projects' checkpoints, in and out."""

from diffusion_jax.interop.huggingface import TextEncoder, load_text_encoder, save_text_encoder

__all__ = ["TextEncoder", "load_text_encoder", "save_text_encoder"]
