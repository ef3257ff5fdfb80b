"""What every experiment starts from: change what your question is about, and keep the rest."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """A small text-to-image model on emoji; a `name` is a function of the home module in the comment beside it."""
    return ConfigDict(
        dict(
            seed=0,
            # data
            data=dict(name="emoji"),  # data.sources
            resolution=32,
            batch_size=64,  # of all devices together
            loader=dict(workers=0, prefetch=4),
            validation_size=256,
            # diffusion
            schedule=dict(name="cosine"),  # diffusion.schedules
            parameterization=dict(name="v_prediction"),  # diffusion.parameterization
            noise_levels=dict(name="uniform"),  # diffusion.noise_levels
            weighting=dict(name="edm", sigma_data=1.0),  # diffusion.weighting; this one is the plain loss on v
            uncertainty=0,  # features of the learned loss at each level, models.Uncertainty; 0: none is learned
            learned_schedule=0,  # knots of a schedule that is learned to make the loss scatter least; 0: it is as above
            caption_dropout=0.1,
            # models
            tokenizer=dict(name="byt5", max_length=48),  # data.tokenizers
            text_encoder=dict(name="T5Encoder", vocab=384, dim=192, d_kv=32, d_ff=512, heads=6, layers=2, gated=True),
            denoiser=dict(
                name="UNet",  # models
                channels=64,
                multipliers=(1, 2, 3),
                blocks=1,
                self_attention=(8, 4),
                cross_attention=(8, 4),
                patch=2,
                dropout=0.0,
                dtype="float32",
            ),
            # training
            parallel=dict(name="jit", mesh=dict(data=-1, fsdp=1, tensor=1)),  # -1: what the others leave; or pmap
            microbatch=0,  # examples of a batch whose gradients are computed at once; 0: all
            begin="",  # a run folder, or the name of shipped weights, whose averaged parameters to begin with
            lora=dict(rank=0, alpha=8.0, where=""),  # factors for kernels whose path `where` is found in; rank 0: none
            optimizer=dict(name="adamw", learning_rate=1e-3, warmup_steps=200, decay_steps=0),  # training.optimizer
            ema_decay=0.999,
            ema_lengths=(),  # of more averages, in shares of the training; of (0.05, 0.1) any is made afterwards
            train=dict(
                steps=20_000,
                log_every=50,
                validate_every=1000,
                sample_every=1000,
                save_every=1000,
                snapshot_every=0,  # steps between two files of the averages of ema_lengths
                keep=2,  # the newest checkpoints stay,
                keep_every=0,  # those whose step divides by this (0: none),
                keep_best=0,  # and so many whose held-out error, where it was measured at their step, is the least
                skip_nonfinite=0,  # batches in a row that may make no number of the loss, and are left out and counted
                watchdog_minutes=0.0,  # without a step: the process says where it stands, and leaves; 0: never
            ),
            # sampling
            sampling=dict(
                sampler=dict(name="dpmpp_2m"),  # diffusion.samplers
                grid=dict(name="karras"),  # diffusion.grids
                nfe=20,
                sigma_min=0.02,
                sigma_max=80.0,
                cfg_scale=3.0,
                guidance=dict(name="cfg"),  # diffusion.guidance
                prompts=("red heart", "red apple, noto style", "green apple", "grinning face"),
            ),
            # what a sweep measures when a run is trained; the first figure of the first decides
            figures=(dict(name="held_out"),),  # measures
        ),
        convert_dict=True,
    )
