import pytest

SWEEP = '''
"""Which rate?"""

from experiments import tiny


def get_config(preset="cpu"):
    config = tiny.get_config()
    config.train.steps = dict(cpu=6, full=60)[preset]
    config.label = ""
    return config


def sweep(add):
    ADDS
'''
ADDS = 'add("slow", {"optimizer.learning_rate": 1e-4}), add("fast", optimizer=dict(learning_rate=1e-2))'


@pytest.fixture
def sweep_file(tmp_path, monkeypatch):
    """Writes a sweep file whose sweep(add) is this line, with what replaces what in it; returns its path."""
    from pathlib import Path

    monkeypatch.syspath_prepend(Path(__file__).parents[2])

    def write(adds=ADDS, **replaced):
        text = SWEEP.replace("ADDS", adds)
        for old, new in replaced.items():
            text = text.replace(old, new)
        path = tmp_path / "rates.py"
        path.write_text(text)
        return path

    return write
