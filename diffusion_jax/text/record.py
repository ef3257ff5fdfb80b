"""What turns captions into what a denoiser is conditioned on."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Text(NamedTuple):
    """A tokenizer and an encoder that belong together.

    tokenize: captions -> (tokens int32 (captions, length), mask bool of that shape), numpy arrays; tokens are
    embeddings, bfloat16 (captions, length, dim), where the encoder has done its work before.
    init: key -> parameters, or None where there are none. encode: (parameters, tokens, mask, dropout_keys=None)
    -> Cond; dropout acts where there are keys, one a caption. The null caption, of pictures without a caption, is the
    empty one.
    load: () -> parameters that were trained elsewhere, to begin with instead of init's. describe: writes into a folder
    what, beside parameters, it takes to make this text again. check: raises ValueError where a folder so written tells
    of another text. trained: whether the parameters change in training. truncated: captions -> how many are longer than
    what is read of them.
    """

    tokenize: Callable
    init: Callable | None
    encode: Callable
    truncated: Callable
    load: Callable | None = None
    describe: Callable | None = None
    check: Callable = lambda folder: None
    trained: bool = True


def agree(text: Text, folder: str | os.PathLike) -> None:
    """Describes a text in a folder that is not there yet, and checks one that is; raises as `check` does."""
    if Path(folder).exists():
        text.check(folder)
    elif text.describe:
        text.describe(folder)
