"""Draw pictures of sentences with a trained model, and show how they come out of noise.

Examples:

  diffusion-jax sample --pretrained=emoji --prompt="a red heart"
  diffusion-jax sample --workdir=runs/a                        (the prompts of its config)
  diffusion-jax sample --workdir=runs/a --beside=emoji
  diffusion-jax sample --workdir=runs/a --prompt="green apple" --prompt="blue heart, noto style" --count=4 --seed=7
  diffusion-jax sample --workdir=runs/a --prompts=prompts.txt --sampler=heun --nfe=39 --cfg_scale=5 --out=pictures
  diffusion-jax sample --workdir=runs/a --prompt="red apple" --negative_prompt="green"
  diffusion-jax sample --destroy=cat.png
"""

from absl import flags


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "Folder of a run: its newest checkpoint draws.", flag_values=values)
    flags.DEFINE_string("pretrained", None, "Name of weights that the package ships.", flag_values=values)
    flags.DEFINE_string("beside", None, "Shipped weights that draw the same prompts beside.", flag_values=values)
    flags.DEFINE_multi_string("prompt", [], "What to draw; may be given several times.", flag_values=values)
    flags.DEFINE_string("prompts", None, "Text file with a prompt a line.", flag_values=values)
    flags.DEFINE_integer("count", 1, "Pictures of each prompt.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "The same seed draws the same pictures.", 0, 2**32 - 1, flag_values=values)
    flags.DEFINE_string("sampler", None, "Name of a sampler; the config's unless given.", flag_values=values)
    flags.DEFINE_integer("nfe", None, "Network calls for a picture.", flag_values=values)
    flags.DEFINE_float("cfg_scale", None, "Guidance scale; 1 is none.", flag_values=values)
    flags.DEFINE_string("negative_prompt", "", "What the pictures are pushed away from.", flag_values=values)
    flags.DEFINE_string("out", "pictures", "Folder for the pictures.", flag_values=values)
    flags.DEFINE_string("destroy", None, "Picture to destroy instead: the forward process.", flag_values=values)


def run(args: flags.FlagValues) -> None:
    from diffusion_jax import gallery

    if args.destroy is not None:
        gallery.destroy(args.destroy, args.out, args.seed, args.workdir, args.pretrained)
        return
    gallery.draw(
        gallery.read_prompts(args.prompt, args.prompts),
        args.out,
        workdir=args.workdir,
        pretrained=args.pretrained,
        beside=args.beside,
        count=args.count,
        seed=args.seed,
        sampler=args.sampler,
        nfe=args.nfe,
        cfg_scale=args.cfg_scale,
        negative=args.negative_prompt,
    )
