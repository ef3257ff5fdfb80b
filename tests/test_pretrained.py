"""The weights that the package ships: small, described, and such that they fit their config."""

import pytest

from diffusion_jax import pretrained, trained


@pytest.mark.parametrize("name", pretrained.names())
def test_shipped_weights(name):
    folder = pretrained.FOLDER / name
    assert (folder / "weights.safetensors").stat().st_size < 24e6
    card = (folder / "README.md").read_text()
    for word in ("License", "Trained", "Not for"):
        assert f"## {word}" in card
    model = trained.load(None, name)
    assert model.config.data.name == "emoji"
    assert set(model.config.data.styles) <= {"noto", "fluent-flat", "fluent", "fluent-3d"}  # the permissive licenses
