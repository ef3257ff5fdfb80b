"""From a config to its parts, and every entry that does not fit named in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from PIL import Image

from diffusion_jax import build, dry_run, placement, sampling
from diffusion_jax.diffusion import grids, schedules

KEYS = jax.random.split(jax.random.key(1), 8)


def batch_of(experiment, captions):
    numbers = np.random.default_rng(0)
    tokens, mask = experiment.text.tokenize(captions)
    image = numbers.integers(0, 256, (len(captions), *experiment.picture_shape), np.uint8)
    return {name: jnp.asarray(rows) for name, rows in (("image", image), ("tokens", tokens), ("mask", mask))}


def test_a_dropped_caption_is_the_empty_one(config, stirred):
    config.caption_dropout = 0.5
    experiment = build.build(config)
    params = stirred(jax.jit(experiment.init)(jax.random.key(0)))
    assert params.keys() == {"text_encoder", "denoiser"}
    keys = jax.random.split(jax.random.key(1), 8)
    loss = jax.jit(lambda batch: experiment.loss(params, batch, keys)[0])
    some, others, none = (batch_of(experiment, [words] * 8) for words in ("red", "blue", ""))

    def taken(i, there):
        return {name: rows.at[i].set(there[name][i]) for name, rows in some.items()}

    lost = [float(loss(taken(i, others))) == float(loss(some)) for i in range(8)]  # another caption changes nothing
    assert 0 < sum(lost) < 8
    assert float(loss(taken(np.flatnonzero(lost), none))) == float(loss(some))
    assert float(loss(none)) != float(loss(some))


def test_dropout_of_the_text_encoder_acts_in_training_alone(config, stirred):
    with config.unlocked():
        config.text_encoder.dropout = 0.5
    experiment = build.build(config)
    params = jax.eval_shape(experiment.init, jax.random.key(0))
    params = {"text_encoder": stirred(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), params["text_encoder"]))}
    tokens = tuple(map(jnp.asarray, experiment.text.tokenize(["red"])))
    plain = experiment.encode(params, *tokens).text_emb
    np.testing.assert_array_equal(experiment.encode(params, *tokens).text_emb, plain)
    assert not np.array_equal(experiment.encode(params, *tokens, jax.random.key(0)[None]).text_emb, plain)


def test_the_program_for_eight_devices_sums_gradients_and_exchanges_nothing_else(config):
    """A row too many, or rows in another order, would make every device compute what another one has."""
    with config.unlocked():
        config.text_encoder.dropout = config.denoiser.dropout = 0.1
    experiment = build.build(config)
    where = placement.placed(experiment, placement.mesh_of(config))
    key = jax.eval_shape(lambda: jax.random.key(0))
    arguments = (where.shapes, dry_run.abstract_batch(config, experiment), key)
    program = placement.compiled_step(config, experiment, where).lower(*arguments).compile().as_text()
    assert " all-reduce(" in program
    for exchange in (" all-gather(", " all-to-all(", " collective-permute("):
        assert exchange not in program


def test_the_processes_of_a_run_share_each_global_batch(config):
    experiment = build.build(config)
    whole = next(build.batches(config, experiment, "data"))
    parts = [next(build.batches(config, experiment, "data", rows)) for rows in np.split(np.arange(8), 2)]
    for name in ("image", "tokens", "mask"):
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), whole[name])


def test_entries_within_entries(config):
    """A schedule of schedules, a weighting of a weighting, a grid with a schedule of its own."""
    flow, cosine = dict(name="rectified_flow"), dict(name="cosine")
    config.schedule = ConfigDict(
        dict(name="shifted", shift=2.0, schedule=dict(name="interpolated", first=flow, second=cosine, share=0.25))
    )
    config.weighting = ConfigDict(dict(name="per_log_snr", weighting=dict(name="sigmoid", bias=1.0)))
    config.sampling.grid = ConfigDict(dict(name="uniform_t", schedule=cosine))
    experiment, half = build.build(config), jnp.asarray(0.5)
    mixed = 0.75 * schedules.rectified_flow().log_snr(half) + 0.25 * schedules.cosine().log_snr(half)
    np.testing.assert_allclose(experiment.schedule.log_snr(half), mixed - 2 * np.log(2), atol=1e-5)
    middle = sampling.sampler(experiment, config.sampling)[0]()[1]
    ends = config.sampling.sigma_min, config.sampling.sigma_max
    np.testing.assert_allclose(middle, grids.uniform_t(4, *ends, schedules.cosine())[1], rtol=1e-5)
    raw = config.to_dict() | {"schedule": dict(name="shifted", shift=2.0, schedule=dict(name="cosin"))}
    with pytest.raises(ValueError, match=r"config.schedule: .*did you mean cosine"):
        build.build(ConfigDict(raw))


@pytest.mark.parametrize("law", ["uniform", "by_loss"])
def test_a_learned_uncertainty(config, law):
    """It starts as the plain loss, and what is learned is the logarithm of the loss."""
    config.uncertainty, config.noise_levels = 8, dict(name=law)
    experiment = build.build(config)
    params, batch = jax.jit(experiment.init)(jax.random.key(0)), batch_of(experiment, ["red"] * 8)
    assert params.keys() == {"text_encoder", "denoiser", "uncertainty"}

    def with_output(out):
        return params | {"uncertainty": jax.tree.map(lambda leaf: leaf + out, params["uncertainty"])}

    run = jax.jit(jax.value_and_grad(lambda out: experiment.loss(with_output(out), batch, KEYS)[0]))
    total, slope = run(jnp.zeros(()))
    _, metrics = jax.jit(experiment.loss)(params, batch, KEYS)
    np.testing.assert_allclose(total, metrics["loss"], rtol=1e-6)
    assert np.isfinite(slope)
    assert slope != 0


def test_a_learned_schedule(config, stirred):
    """The network learns as it would with the schedule as it is, and the schedule learns to scatter less."""
    config.schedule = dict(name="log_linear")
    config.weighting = dict(name="elbo")
    fixed = build.build(config)
    config.learned_schedule = 8
    learned = build.build(config)
    params = jax.jit(learned.init)(jax.random.key(0))
    assert params.keys() == {"text_encoder", "denoiser", "schedule"}
    params = params | stirred({name: params[name] for name in ("text_encoder", "denoiser")})
    batch = batch_of(learned, ["red"] * 8)
    (total, metrics), gradient = jax.jit(jax.value_and_grad(learned.loss, has_aux=True))(params, batch, KEYS)
    (plain, _), expected = jax.jit(jax.value_and_grad(fixed.loss, has_aux=True))(params, batch, KEYS)
    np.testing.assert_allclose(total, plain, rtol=1e-5)
    least = 1e-6 * optax.tree.norm(expected)  # some gradients are zero but for rounding
    for name in ("text_encoder", "denoiser"):
        for one, other in zip(jax.tree.leaves(gradient[name]), jax.tree.leaves(expected[name]), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=least + 1e-4 * abs(other).max())
    falls = gradient["schedule"]["falls"]
    moved = params | {"schedule": {"falls": -0.002 * falls / jnp.linalg.norm(falls)}}
    after = jax.jit(learned.loss)(moved, batch, KEYS)[1]
    assert after["scatter"] * after["loss"] ** 2 < metrics["scatter"] * metrics["loss"] ** 2  # the mean square


@pytest.mark.parametrize(
    ("weighting", "law", "line"),
    [
        ("constant", "uniform", "set per_log_snr or elbo"),
        ("elbo", "by_loss", "by_loss draws levels without regard to it"),
    ],
)
def test_a_schedule_that_cannot_be_learned(config, weighting, law, line):
    config.weighting, config.noise_levels = dict(name=weighting), dict(name=law)
    config.learned_schedule, config.uncertainty = 8, 8
    with pytest.raises(ValueError, match=rf"config.learned_schedule: .*{line}"):
        build.build(config)


def test_levels_by_loss_need_a_loss(config):
    config.noise_levels = dict(name="by_loss")
    with pytest.raises(
        ValueError, match=r"config.noise_levels: by_loss needs to know the loss: set config.uncertainty"
    ):
        build.build(config)


def test_a_weighting_that_needs_the_schedule_is_given_it(config):
    """On levels that are even in log_snr, from -10 to 10, the weight of the ELBO is 10."""
    config.schedule = dict(name="log_linear")
    config.weighting = dict(name="elbo")
    experiment = build.build(config)
    params = jax.jit(experiment.init)(jax.random.key(0))
    loss, metrics = jax.jit(experiment.loss)(
        params, batch_of(experiment, ["red"] * 2), jax.random.split(jax.random.key(1))
    )
    np.testing.assert_allclose(loss, 10 * metrics["eps_error"], rtol=1e-5)


@pytest.mark.parametrize(
    ("entry", "value", "line"),
    [
        ("schedule", dict(name="cosin"), "config.schedule: .* has no 'cosin': did you mean cosine"),
        ("schedule", dict(name="diffusion_jax.diffusion.keys:uniform"), "config.schedule: .*does not fit here"),
        (
            "schedule",
            dict(name="diffusion_jax.data.tokenizers:byt5"),
            "config.schedule: .*byt5 makes no schedule; cosine,",
        ),
        ("schedule", dict(name="builtins:dict"), "config.schedule: "),
        ("parameterization", dict(name="v"), "config.parameterization: .*did you mean v_prediction"),
        ("parameterization", dict(name="target"), "config.parameterization: target does not fit here"),
        ("noise_levels", dict(name="unifrm"), "config.noise_levels: .*did you mean uniform"),
        ("weighting", dict(name="min_snr", gama=3.0), "config.weighting: .*no argument 'gama': did you mean gamma"),
        ("tokenizer", dict(name="bpe"), "config.tokenizer: .*no 'bpe'"),
        ("tokenizer", dict(name="byt5", max_length=1), "max_length is 1"),
        ("text_encoder", dict(name="T5", dim=8), "config.text_encoder: .*did you mean T5Encoder"),
        ("text_encoder", dict(name="T5Encoder", dim=8), "config.text_encoder: T5Encoder does not fit here .*'vocab'"),
        ("denoiser", dict(name="UNet", channel=8), "config.denoiser: .*no argument 'channel': did you mean channels"),
        ("optimizer", dict(name="adam"), "config.optimizer: .*did you mean adamw"),
        ("optimizer", dict(name="adamw"), "config.optimizer: adamw does not fit here .*'learning_rate'"),
        ("optimizer", dict(name="decayed"), "config.optimizer: decayed does not fit here"),
        ("optimizer", "adamw", r"config.optimizer is 'adamw': write dict\(name=..., \*\*arguments\)"),
    ],
)
def test_an_entry_that_does_not_fit(config, entry, value, line):
    raw = config.to_dict() | {entry: value}
    with pytest.raises(ValueError, match=line) as raised:
        build.build(ConfigDict(raw))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        (dict(name="emoj"), "config.data: .*did you mean emoji"),
        (dict(name="shapes", colour="red"), "config.data: shapes takes no argument 'colour'"),
        (dict(name="shapes", size=4), "shapes needs size >= 16"),
        (dict(name="folder"), "config.data: folder does not fit here .*'path'"),
    ],
)
def test_data_that_cannot_be_had(config, entry, line):
    raw = config.to_dict() | {"data": entry}
    with pytest.raises(ValueError, match=line):
        build.source(ConfigDict(raw), "train", "data")


def test_data_that_is_not_there(config, tmp_path):
    with pytest.raises(FileNotFoundError, match="run `diffusion-jax data build emoji` first"):
        build.source(ConfigDict(config.to_dict() | {"data": dict(name="emoji")}), "train", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        build.source(
            ConfigDict(config.to_dict() | {"data": dict(name="folder", path=str(tmp_path / "x"))}), "train", ""
        )


def test_held_out_pictures_fit_as_the_trained_ones_do(config, tmp_path):
    for number in range(4):
        Image.new("RGB", (32, 8), "black").save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text("black")
    raw = config.to_dict() | {"data": dict(name="folder", path=str(tmp_path)), "validation_size": 1}
    white = []
    for fit in ("crop", "pad"):
        changed = ConfigDict(raw | {"loader": raw["loader"] | {"fit": fit}})
        sets = build.fixed_sets(changed, build.build(changed), "data")
        white.append([int((pictures["image"] == 255).sum()) for pictures in sets.values()])
    assert white[0] == [0, 0]
    assert min(white[1]) > 0
