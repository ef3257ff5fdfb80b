"""Which configs are one program is tried out; what the step is built of is all looked at."""

import json

import pytest
from ml_collections import ConfigDict

from diffusion_jax import alike, build, placement


def with_changes(config, **changes):
    return alike.with_numbers(config, {name.replace("__", "."): value for name, value in changes.items()})


@pytest.fixture
def base(config):
    config.weighting = ConfigDict(dict(name="min_snr", gamma=5.0))
    config.schedule = ConfigDict(dict(name="shifted", shift=1.0, schedule=dict(name="cosine")))
    return config


def test_numbers_that_a_program_takes_make_one_group(base):
    configs = [
        base,
        with_changes(base, optimizer__learning_rate=0.5, weighting__gamma=1.0),
        with_changes(base, schedule__shift=3, ema_decay=0.5, seed=4),
        with_changes(base, sampling__nfe=9, label="read by nobody"),
    ]
    (group,) = alike.groups(configs)
    assert group.places == (0, 1, 2, 3)
    assert set(group.numbers) == {"optimizer.learning_rate", "weighting.gamma", "schedule.shift", "ema_decay"}


def test_shapes_names_and_the_course_of_the_training_part_groups(base):
    configs = [
        base,
        with_changes(base, denoiser__channels=16),
        with_changes(base, parameterization__name="eps_prediction"),
        with_changes(base, train__steps=7),
        with_changes(base, batch_size=16),
        with_changes(base, denoiser__channels=16, caption_dropout=0.5),
        with_changes(base, denoiser__dropout=0.5),  # the network looks at the rate
    ]
    assert [group.places for group in alike.groups(configs)] == [(0,), (1, 5), (2,), (3,), (4,), (6,)]


def test_what_does_not_build_or_begins_elsewhere_is_alone(base):
    configs = [
        base,
        with_changes(base, optimizer__learning_rate=-1.0),
        with_changes(base, optimizer__learning_rate=-1.0),
        with_changes(base, begin="emoji"),
        with_changes(base, parallel=dict(name="pmap", mesh=dict(data=-1, fsdp=1, tensor=1))),
        with_changes(base, ema_decay=0.5),
    ]
    assert [group.places for group in alike.groups(configs)] == [(0, 5), (1,), (2,), (3,), (4,)]


def test_a_step_and_its_batches_are_made_of_what_is_compared(base):
    """An entry that `build` begins to read has to be listed, or else arms that differ in it were taken for one."""
    read = set()

    class Spy(ConfigDict):
        def __getattr__(self, name):
            read.add(name) if name in told else None
            return super().__getattr__(name)

        def __getitem__(self, name):
            read.add(name)
            return super().__getitem__(name)

        def get(self, name, default=None):
            read.add(name)
            return super().get(name, default)

        def to_dict(self, **settings):
            before = set(read)
            whole = super().to_dict(**settings)
            read.intersection_update(before)  # to have all is not to look at each
            return whole

    told = json.loads(base.to_json())
    spy = Spy(base.to_dict())
    read.clear()
    experiment = build.build(spy)
    alike.takes(spy, experiment, [])
    placement.one_update(spy, experiment)
    placement.mesh_of(spy)
    build.batches(spy, experiment, "data").close()
    build.fixed_sets(spy, experiment, "data")
    listed = {*alike.TRACED, *alike.EQUAL, "seed"}
    assert {"weighting", "ema_decay", "data", "microbatch"} <= read
    assert read <= listed
