"""Orbax keeps still, and nobody else is kept still."""

import logging

from diffusion_jax.training import quiet
from tests.training.test_checkpoint import opened, save


def test_orbax_is_quiet_and_others_are_not(tmp_path, caplog):
    quiet.quiet_orbax()
    absl = logging.getLogger("absl")
    assert absl.filters.count(quiet.not_of_orbax) == 1
    with opened(tmp_path) as checkpoints:
        save(checkpoints, 1)
        save(checkpoints, 2)
    absl.warning("3 of 7 pictures have no caption")
    assert [record.getMessage() for record in caplog.records if record.name == "absl"] == [
        "3 of 7 pictures have no caption"
    ]
