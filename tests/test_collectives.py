"""Collectives read from HLO: written here by hand in every notation, and compiled from programs with known answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from diffusion_jax import collectives as hlo
from diffusion_jax.collectives import Collective, collectives

MESH = {"data": 2, "fsdp": 4}
GROUPS = "replica_groups={{0,1,2,3},{4,5,6,7}}"


def program(*lines, before=""):
    body = "\n".join(f"  {line}" for line in lines)
    main = f"ENTRY %main (x: f32[8]) -> f32[8] {{\n  %x = f32[8]{{0}} parameter(0)\n{body}\n}}\n"
    return f"HloModule made_up\n\n{before}\n{main}"


def only(line, mesh=MESH, before=""):
    (found,) = collectives(program(line, before=before), mesh)
    return found


@pytest.mark.parametrize(
    ("shape", "operation", "kind", "payload", "sent"),
    [
        ("f32[8]{0}", f"all-reduce(%x), {GROUPS}", "all-reduce", 32, 48),
        ("f32[8]{0}", f"all-reduce-start(%x), {GROUPS}", "all-reduce", 32, 48),
        ("(f32[8]{0}, /*index=1*/bf16[2,2]{1,0}, pred[])", f"all-reduce(%x, %y, %z), {GROUPS}", "all-reduce", 41, 61.5),
        ("(f32[8]{0}, f32[4]{0})", f"all-reduce-start(%x, %y), {GROUPS}", "all-reduce", 48, 72),
        ("f32[8]{0}", f"all-gather(%x), {GROUPS}, dimensions={{0}}", "all-gather", 32, 24),
        ("(f32[2]{0}, f32[8]{0})", f"all-gather-start(%x), {GROUPS}, dimensions={{0}}", "all-gather", 32, 24),
        (
            "((f32[2]{0}, s8[1]{0}), (f32[8]{0}, s8[4]{0}))",
            f"all-gather-start(%x, %y), {GROUPS}, dimensions={{0}}",
            "all-gather",
            36,
            27,
        ),
        ("f32[2]{0}", f"reduce-scatter(%x), {GROUPS}, dimensions={{0}}", "reduce-scatter", 32, 24),
        ("(f32[1]{0}, f32[1]{0}, f32[1]{0}, f32[1]{0})", f"all-to-all(%a, %b, %c, %d), {GROUPS}", "all-to-all", 16, 12),
        ("f32[2]{0}", "collective-permute(%x), source_target_pairs={{0,1},{1,0}}", "collective-permute", 8, 8),
        (
            "(f32[2]{0}, f32[2]{0}, u32[], u32[])",
            "collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}",
            "collective-permute",
            8,
            8,
        ),
        ("f32[2]{0}", "collective-permute(%x), source_target_pairs={{0,0},{1,1}}", "collective-permute", 8, 0),
        ("bf16[8,128]{1,0:T(8,128)(2,1)S(1)}", f"all-reduce(%x), {GROUPS}", "all-reduce", 2048, 3072),
        ("f8e4m3fn[16]{0}", f"all-gather(%x), {GROUPS}", "all-gather", 16, 12),
        ("s4[3]{0}", f"all-gather(%x), {GROUPS}", "all-gather", 2, 1.5),
        ("c64[2]{0}", f"all-gather(%x), {GROUPS}", "all-gather", 16, 12),
        ("f32[<=8]{0}", f"all-gather(%x), {GROUPS}", "all-gather", 32, 24),
    ],
)
def test_what_is_moved(shape, operation, kind, payload, sent):
    found = only(f"ROOT %it = {shape} {operation}, channel_id=1")
    assert (found.kind, found.payload, found.sent, found.times) == (kind, payload, sent, 1)


@pytest.mark.parametrize(
    ("groups", "size", "axes", "whole"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", 4, ("fsdp",), True),
        ("{{0,4},{1,5},{2,6},{3,7}}", 2, ("data",), True),
        ("{{0,1,2,3,4,5,6,7}}", 8, ("data", "fsdp"), True),
        ("{}", 8, ("data", "fsdp"), True),
        ("{{0,2},{1,3},{4,6},{5,7}}", 2, ("fsdp",), False),
        ("{{0},{1},{2},{3},{4},{5},{6},{7}}", 1, (), True),
        ("[1,8]<=[8]", 8, ("data", "fsdp"), True),
        ("[2,4]<=[8]", 4, ("fsdp",), True),
        ("[4,2]<=[2,4]T(1,0)", 2, ("data",), True),
        ("[4,2]<=[8]", 2, ("fsdp",), False),
        ("mesh['data'=2,'fsdp'=4] {'fsdp'}", 4, ("fsdp",), True),
        ("mesh['data'=2,'fsdp'=4] {'data','fsdp'}", 8, ("data", "fsdp"), True),
        ("mesh['axis_0'=2,'axis_1'=4,'axis_2'=1] {'axis_0'}", 2, ("data",), True),
        ("mesh['d'=8] {'d':(1)2}", 2, ("data",), True),
        ("mesh['d'=8] {'d':(2)4}", 4, ("fsdp",), True),
        ("mesh['d'=8] {'d':(1)2,'d':(4)2}", 4, ("data", "fsdp"), False),
        ("mesh['axis_0'=2,'axis_1'=4], device_ids=([4,2]T(1,0)) {'axis_0'}", 2, ("fsdp",), False),
        ("mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_0'}", 4, ("fsdp",), True),
        ("mesh['a'=2,'b'=4], device_ids=(4,1,2,3,0,5,6,7) {'a'}", 2, ("data",), True),
    ],
)
def test_who_takes_part(groups, size, axes, whole):
    found = only(f"%it = f32[8]{{0}} all-reduce(%x), channel_id=1, replica_groups={groups}, to_apply=%add", before=ADD)
    assert (found.group, found.axes, found.whole) == (size, axes, whole)


ADD = "%add (a: f32[], b: f32[]) -> f32[] {\n  %a = f32[] parameter(0)\n  ROOT %s = f32[] add(%a, %a)\n}\n"


def test_the_groups_themselves():
    def of(text):
        return hlo.groups_of(f"replica_groups={text},", 8)

    assert of("[4,2]<=[2,4]T(1,0)") == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert of("mesh['a'=8] {'a':(2)2}") == [[0, 2], [1, 3], [4, 6], [5, 7]]
    assert of("mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}") == [[0, 2, 4, 6], [1, 3, 5, 7]]


def test_a_permutation_lies_along_the_axes_in_which_senders_and_receivers_differ():
    around = "source_target_pairs={{0,1},{1,2},{2,3},{3,0},{4,5},{5,6},{6,7},{7,4}}"
    assert only(f"%it = f32[8]{{0}} collective-permute(%x), {around}").axes == ("fsdp",)
    across = "source_target_pairs={{0,4},{4,0}}"
    assert only(f"%it = f32[8]{{0}} collective-permute(%x), {across}").axes == ("data",)


BODY = f"""%inner (p: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %p = (s32[], f32[8]{{0}}) parameter(0)
  %sum = f32[8]{{0}} all-reduce(%p), {GROUPS}, to_apply=%add
}}

%outer (p: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %w = (s32[], f32[8]{{0}}) while(%p), condition=%c, body=%inner, backend_config={{"known_trip_count":{{"n":"3"}}}}
}}

%c (p: (s32[], f32[8])) -> pred[] {{
  %p = (s32[], f32[8]{{0}}) parameter(0)
}}

{ADD}"""


@pytest.mark.parametrize(("told", "times", "sent"), [('"known_trip_count":{"n":"5"}', 15, 15 * 48), ("", None, 48)])
def test_loops_within_loops(told, times, sent):
    found = only(f"%w = (s32[]) while(%t), condition=%c, body=%outer, backend_config={{{told}}}", before=BODY)
    assert (found.times, found.sent) == (times, sent)


def test_what_is_called_fused_chosen_or_begun_counts_and_what_is_never_called_does_not():
    inner = f"%NAME (p: f32[8]) -> f32[8] {{\n  ROOT %r = f32[8]{{0}} reduce-scatter(%p), {GROUPS}\n}}\n"
    before = "".join(inner.replace("NAME", name) for name in ("a", "b.1", "c", "d", "e", "lost"))
    text = program(
        "%1 = f32[8]{0} fusion(%x), kind=kLoop, calls=%a",
        "%2 = f32[8]{0} call(%x), to_apply=%b.1",
        "%3 = f32[8]{0} conditional(%i, %x, %x), branch_computations={%c, %d}",
        "%4 = ((f32[8]), f32[8], u32[]) async-start(%x), calls=%e",
        "%5 = f32[8]{0} async-done(%4)",
        "%6 = f32[8]{0} all-reduce-done(%4)",
        '%7 = f32[8]{0} negate(%x), metadata={op_name="no all-reduce(x)"}',
        before=before,
    )
    assert [found.kind for found in collectives(text, MESH)] == ["reduce-scatter"] * 5


def test_unknown_groups_and_texts_are_refused():
    with pytest.raises(ValueError, match="groups of devices are written in an unknown way: %it = f32"):
        only("%it = f32[8]{0} all-reduce(%x), replica_groups=whatever")
    with pytest.raises(ValueError, match="no ENTRY computation"):
        collectives("all-reduce(x)", MESH)


def compiled(function, given, out, *arguments, mesh=MESH):
    """The collectives of a function that runs on each device of the mesh."""
    devices = Mesh(np.array(jax.devices()[: int(np.prod(list(mesh.values())))]).reshape(*mesh.values()), tuple(mesh))
    mapped = jax.shard_map(function, mesh=devices, in_specs=given, out_specs=out, check_vma=False)
    return collectives(jax.jit(mapped).lower(*arguments).compile().as_text(), mesh)


ROWS, NONE = PartitionSpec(("data", "fsdp")), PartitionSpec()
AROUND = [(i, (i + 1) % 4) for i in range(4)]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: jax.lax.psum(x, ("data", "fsdp")), Collective("all-reduce", 64, 8, ("data", "fsdp"), True, 1)),
        (lambda x: jax.lax.psum(x, "data"), Collective("all-reduce", 64, 2, ("data",), True, 1)),
        (lambda x: jax.lax.pmean(x, "fsdp"), Collective("all-reduce", 64, 4, ("fsdp",), True, 1)),
        (lambda x: jax.lax.all_gather(x, "fsdp"), Collective("all-gather", 256, 4, ("fsdp",), True, 1)),
        (
            lambda x: jax.lax.psum_scatter(x, "fsdp", scatter_dimension=1, tiled=True),
            Collective("reduce-scatter", 64, 4, ("fsdp",), True, 1),
        ),
        (lambda x: jax.lax.all_to_all(x, "fsdp", 1, 0), Collective("all-to-all", 64, 4, ("fsdp",), True, 1)),
        (lambda x: jax.lax.ppermute(x, "fsdp", AROUND), Collective("collective-permute", 64, 2, ("fsdp",), True, 1)),
        (
            lambda x: jax.lax.fori_loop(0, 7, lambda _, c: jax.lax.psum(c, "data") * x, x),
            Collective("all-reduce", 64, 2, ("data",), True, 7),
        ),
        (
            lambda x: jax.lax.while_loop(lambda c: c.sum() < 9, lambda c: jax.lax.psum(c, "data") + x, x),
            Collective("all-reduce", 64, 2, ("data",), True, None),
        ),
    ],
)
def test_programs_whose_collectives_are_known(function, expected):
    """On each device x is 4 x 4 numbers of 4 bytes."""
    assert compiled(function, ROWS, ROWS, jnp.zeros((32, 4))) == [expected]


def test_several_sums_in_one_collective():
    found = compiled(lambda x, y: jax.lax.psum((x, y), "data"), (ROWS, NONE), (ROWS, NONE), jnp.zeros(32), jnp.zeros(3))
    assert found == [Collective("all-reduce", 4 * (4 + 3), 2, ("data",), True, 1)]


def test_one_device_tells_nobody():
    found = compiled(lambda x: jax.lax.psum(x, "data") * 2, ROWS, ROWS, jnp.zeros(4), mesh={"data": 1, "fsdp": 1})
    assert sum(each.sent for each in found) == 0
