from diffusion_jax.__main__ import main


def test_schedules_are_drawn(tmp_path, capsys):
    assert main(["schedule", "cosine", "scaled_linear", f"--out={tmp_path}/a.png"]) == 0
    assert (tmp_path / "a.png").stat().st_size > 10_000
    assert "scaled_linear: at t = 1 the SNR is" in capsys.readouterr().out


def test_bad_words_are_one_line(capsys):
    assert main(["schedule"]) == 2
    assert "say which" in capsys.readouterr().err
    assert main(["schedule", "cosin"]) == 1
    assert capsys.readouterr().err == (
        "error: config.schedule: diffusion_jax.diffusion.schedules has no 'cosin': did you mean cosine or log_linear?\n"
    )
