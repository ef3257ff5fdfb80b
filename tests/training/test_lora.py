"""Low-rank adaptation: what it adds, what it can fit, what it leaves alone, and what is refused."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict
from jax.sharding import NamedSharding, PartitionSpec

from diffusion_jax import build
from diffusion_jax.training import lora, parallel, state, step
from diffusion_jax.training.adaptation import adapted

KEY = jax.random.key(0)


def drawn(*shape):
    return jnp.asarray(np.random.default_rng(shape).standard_normal(shape), jnp.float32)


PARAMS = {
    "stem": {"kernel": drawn(3, 3, 4, 8), "bias": drawn(8)},
    "block": {"q": {"kernel": drawn(8, 6)}, "o": {"kernel": drawn(6, 8), "bias": drawn(8)}},
    "norm": {"scale": drawn(8)},
    "token_embedding": {"embedding": drawn(10, 8)},
    "nothing": {},
}


def filled(factors):
    """Factors of which none is zero, as after some training."""
    return jax.tree.map(lambda leaf: drawn(*leaf.shape), factors)


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
    ("where", "paths"),
    [
        ("", {"stem/kernel", "block/q/kernel", "block/o/kernel"}),
        (r"block/(q|v)/", {"block/q/kernel"}),
        (r"^stem|o/kernel$", {"stem/kernel", "block/o/kernel"}),
    ],
)
def test_the_kernels_that_are_adapted_and_their_factors(where, paths):
    found = flatten_dict(jax.jit(partial(lora.init, rank=2, where=where))(KEY, PARAMS), sep="/")
    assert found.keys() == {f"{path}/{name}" for path in paths for name in ("down", "up")}
    kernels = flatten_dict(PARAMS, sep="/")
    for path in paths:
        *inputs, outputs = kernels[path].shape
        assert (found[f"{path}/down"].shape, found[f"{path}/up"].shape) == ((*inputs, 2), (2, outputs))


def test_factors_of_shapes_are_those_of_arrays():
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), PARAMS)
    found = lora.init(KEY, shapes, 2)
    assert_same(found, lora.init(KEY, PARAMS, 2))
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}


def test_down_is_uniform_within_the_published_bound_and_drawn_by_its_path():
    wide = {name: {"kernel": jnp.zeros((3, 3, 50, 500))} for name in "ab"}
    both = lora.init(KEY, wide, 200)
    bound = (3 * 3 * 50) ** -0.5
    for name in "ab":
        down = both[name]["kernel"]["down"]
        assert 0.999 * bound < np.abs(down).max() <= bound
        assert np.std(down) == pytest.approx(bound / 3**0.5, rel=0.02)
    assert np.abs(both["a"]["kernel"]["down"] - both["b"]["kernel"]["down"]).max() > bound
    assert_same(lora.init(KEY, wide, 200, where="b")["b"], both["b"])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_before_training_parameters_are_the_same_bits(dtype):
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), PARAMS)
    found = jax.jit(lora.merged)(params, lora.init(KEY, params, 3), alpha=7.0)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    assert_same(found, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(dtype)}


class Branch(nn.Module):
    """What the factors of one kernel are by themselves: two layers, the second at each position alone."""

    rank: int
    outputs: int
    window: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        if self.window:
            x = nn.Conv(self.rank, self.window, use_bias=False, name="down")(x)
            return nn.Conv(self.outputs, (1, 1), use_bias=False, name="up")(x)
        return nn.Dense(self.outputs, use_bias=False, name="up")(nn.Dense(self.rank, use_bias=False, name="down")(x))


LAYERS = {
    "dense": (nn.Dense(7), (5, 6), ()),
    "convolution": (nn.Conv(7, (3, 3)), (2, 8, 8, 6), (3, 3)),
    "convolution of one pixel": (nn.Conv(7, (1, 1)), (2, 8, 8, 6), (1, 1)),
}


@pytest.mark.parametrize(("layer", "shape", "window"), LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize(("rank", "alpha", "scale"), [(3, 6, 2.0), (3, 1.5, 0.5), (2, None, 1.0), (1, 0, 0.0)])
def test_merged_is_the_layer_and_its_branch(layer, shape, window, rank, alpha, scale):
    x = drawn(*shape)
    params = layer.init(KEY, x)["params"]
    factors = filled(lora.init(jax.random.key(1), params, rank))
    down, up = factors["kernel"]["down"], factors["kernel"]["up"]
    pair = {"down": {"kernel": down}, "up": {"kernel": up.reshape(*[1] * len(window), *up.shape)}}
    expected = layer.apply({"params": params}, x) + scale * Branch(rank, 7, window).apply({"params": pair}, x)
    found = layer.apply({"params": lora.merged(params, factors, alpha)}, x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_alpha_is_an_argument_of_the_compiled_program_and_scales_by_each_rank():
    factors = filled(lora.init(KEY, PARAMS, 2, "q/") | lora.init(KEY, PARAMS, 4, "stem"))
    traces = []

    def counted(*arguments):
        traces.append(arguments)
        return lora.merged(*arguments)

    merge = jax.jit(counted)
    found = merge(PARAMS, factors, 3.0)
    for path, rank in ((("block", "q"), 2), (("stem",), 4)):
        kernel, pair, new = PARAMS, factors, found
        for name in (*path, "kernel"):
            kernel, pair, new = kernel[name], pair[name], new[name]
        change = np.tensordot(np.float64(pair["down"]), np.float64(pair["up"]), 1)
        np.testing.assert_allclose(new, kernel + 3 / rank * change, rtol=1e-5, atol=1e-5)
    merge(PARAMS, factors, 5.0)
    assert len(traces) == 1


def test_sums_are_float32_and_rounded_once():
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    factors = filled(lora.init(KEY, params, 5))
    wide = lora.merged(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params), factors, 2)
    assert_same(lora.merged(params, factors, 2), jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), wide))


SINGULAR = np.array([3.0, 2.0, 1.0, 0.0])


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_a_rank_fits_what_it_can_and_no_more(rank):
    """Eckart & Young: the least squared error is the sum of the squares of the singular values beyond the rank."""
    numbers = np.random.default_rng(1)
    left, right = (np.linalg.qr(numbers.standard_normal((n, n)))[0] for n in (6, 4))
    base = {"kernel": jnp.asarray(numbers.standard_normal((6, 4)), jnp.float32)}
    goal = base["kernel"] + jnp.asarray(left[:, :4] * SINGULAR @ right, jnp.float32)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, 1500))

    def loss(params):
        return jnp.sum((nn.Dense(4, use_bias=False).apply({"params": params}, jnp.eye(6)) - goal) ** 2)

    def update(carried, _):
        factors, moments = carried
        value, gradients = jax.value_and_grad(lambda factors: loss(lora.merged(base, factors)))(factors)
        updates, moments = optimizer.update(gradients, moments)
        return (optax.apply_updates(factors, updates), moments), value

    factors = lora.init(KEY, base, rank)
    _, values = jax.jit(lambda start: jax.lax.scan(update, start, length=1500))((factors, optimizer.init(factors)))
    assert values[0] == pytest.approx(np.sum(SINGULAR**2), rel=1e-5)
    assert values[-1] == pytest.approx(np.sum(SINGULAR[rank:] ** 2), rel=1e-4, abs=1e-4)


def test_a_training_of_an_experiment_changes_the_factors_alone(config, stirred):
    experiment = build.build(config)
    shapes = jax.eval_shape(experiment.init, KEY)
    params = stirred(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes))
    factors = lora.init(KEY, params, 2, r"conv_in/|query/|attention/(q|v)/")
    assert {path.partition("/")[0] for path in flatten_dict(factors, sep="/")} == {"denoiser", "text_encoder"}
    tokens, mask = experiment.text.tokenize(["red", "blue"] * 4)
    image = np.random.default_rng(0).integers(0, 256, (8, *experiment.picture_shape), np.uint8)

    loss = adapted(experiment.loss, lora=partial(lora.merged, alpha=2.0))
    encode = adapted(experiment.encode, lora=lora.merged)
    words = [jax.jit(each)(params | {"lora": factors}, tokens, mask) for each in (encode, experiment.encode)]
    assert_same(*words)

    mesh, optimizer, fixed = parallel.device_mesh(), optax.adam(1e-2), tuple(params)
    update = step.make_train_step(loss, optimizer, 0.9, fixed)
    update = parallel.jit_parallel(update, mesh, parallel.everywhere(mesh))
    now = state.init_state(jax.tree.map(jnp.copy, params | {"lora": factors}), optimizer, fixed)
    assert jax.tree.map(jnp.shape, now.opt_state[0].mu) == {"lora": jax.tree.map(jnp.shape, factors)}
    now, key = parallel.replicate(now, mesh), parallel.replicate(KEY, mesh)
    for _ in range(3):
        batch = parallel.split_batch({"image": image, "tokens": tokens, "mask": mask}, mesh, 8)
        now, metrics = update(now, batch, key)
    assert np.isfinite(float(metrics["loss"]))
    for found in (now.params, now.ema_params):
        assert_same({name: found[name] for name in params}, params)
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), found["lora"], factors)
        assert min(jax.tree.leaves(moved)) > 1e-3


def test_no_gradient_reaches_what_is_adapted():
    loss = adapted(lambda params: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)), lora=lora.merged)
    gradients = jax.grad(loss)(PARAMS | {"lora": filled(lora.init(KEY, PARAMS, 2))})
    smallest = jax.tree.map(lambda leaf: np.abs(leaf).max(), gradients)
    assert min(jax.tree.leaves(smallest.pop("lora"))) > 0
    assert set(jax.tree.leaves(smallest)) == {0}


def test_a_gradient_reaches_what_is_not_fixed():
    loss = adapted(
        lambda params: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)), ("block",), lora=lora.merged
    )
    gradients = jax.grad(loss)(PARAMS | {"lora": filled(lora.init(KEY, PARAMS, 2, "block/"))})
    assert set(jax.tree.leaves(jax.tree.map(lambda leaf: np.abs(leaf).max(), gradients["block"]))) == {0}
    for name in ("stem", "norm", "token_embedding"):
        assert_same(gradients[name], jax.tree.map(lambda leaf: 2 * leaf, PARAMS[name]))
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients["lora"])) > 0


def test_kernels_that_are_cut_among_devices_stay_so():
    mesh = parallel.device_mesh()
    cut = NamedSharding(mesh, PartitionSpec(None, "data"))
    params = {"q": {"kernel": drawn(6, 16)}}
    factors = filled(lora.init(KEY, params, 3))
    expected = lora.merged(params, factors, 2)
    placed = jax.device_put(params, cut)
    found = jax.jit(lora.merged, out_shardings=cut)(placed, parallel.replicate(factors, mesh), 2.0)
    assert found["q"]["kernel"].sharding.shard_shape((6, 16)) == (6, 2)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), found, expected)
    inits = [jax.jit(partial(lora.init, rank=3))(KEY, each) for each in (params, placed)]
    assert_same(*inits)


@pytest.mark.parametrize(
    ("rank", "where", "complaint"),
    [
        (
            2,
            "attention",
            "'attention' is found in none of 3 kernels' paths: stem/kernel, block/q/kernel",
        ),
        (2, "embedding", "found in none of 3"),
        (2, "(q", "no regular expression"),
        (0, "", "rank is 0: use 1 or more"),
        (-1, "", "rank is -1"),
        (7, "", r"rank 7 is above a side of block/q/kernel \(8, 6\), block/o/kernel \(6, 8\): lower it"),
        (9, "stem", r"rank 9 is above a side of stem/kernel \(3, 3, 4, 8\)"),
    ],
)
def test_factors_that_cannot_be_are_refused(rank, where, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        lora.init(KEY, PARAMS, rank, where)
    assert "\n" not in str(caught.value)


def test_kernels_of_other_axes_are_refused():
    with pytest.raises(ValueError, match=r"a kernel needs 2 or 4 axes: .* leave out heads/kernel \(8, 2, 4\)"):
        lora.init(KEY, PARAMS | {"heads": {"kernel": drawn(8, 2, 4)}}, 2)


@pytest.mark.parametrize(
    ("other", "complaint"),
    [
        ({"block_9": {"kernel": {"down": drawn(8, 2), "up": drawn(2, 6)}}}, "block_9/kernel is not there"),
        ({"stem": {"kernel": {"down": drawn(3, 3, 4, 2)}}}, "stem/kernel has no up"),
        ({"stem": {"kernel": {"down": drawn(4, 2), "up": drawn(2, 8)}}}, r"\(3, 3, 4, 8\), the factors \(4, 2\)"),
        ({"block": {"q": {"kernel": {"down": drawn(8, 2), "up": drawn(3, 6)}}}}, r"factors \(8, 2\) and \(3, 6\)"),
        ({str(i): {"kernel": {"down": drawn(1, 1), "up": drawn(1, 1)}} for i in range(20)}, "and 12 more"),
    ],
)
def test_factors_of_another_model_are_refused(other, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        lora.merged(PARAMS, other)
    assert "\n" not in str(caught.value)
