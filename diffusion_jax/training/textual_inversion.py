"""Textual inversion: words that were not there before, as rows below the table of token embeddings, trained alone.

Gal et al., "An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual Inversion" (2022): all of
the model stays as it is, and a new word begins as the embedding of a word that roughly says what it is to mean.

    rows = rows_of(params, tokens=[of_cat])
    module = module.clone(vocab=module.vocab + len(rows))  # token module.vocab, the first that was none, is the word
    loss = adapted(loss_of_module, tokens=with_tokens)

The tokenizer has to be told the new word by whoever writes captions with it. The gradient of a lookup is as large as
the whole table before all but its last rows are dropped: 0.5 GB for T5-XXL's.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from diffusion_jax.types import Params

TABLE = "token_embedding/embedding"  # of the text encoders here; below "text_encoder/" in an experiment's parameters


def rows_of(params: Params, tokens: Sequence[int], table: str = TABLE) -> Float[Array, "n dim"]:
    """What new words begin as: the embeddings of these tokens, one each, in float32.

    table: the path of the token embedding. Raises ValueError where there is none at it, and for no token or one that
    it does not hold, which a lookup would answer with another token's row.
    """
    embedding = _table(flatten_dict(params, sep="/"), table)
    outside = [int(token) for token in tokens if not 0 <= token < embedding.shape[0]]
    if outside or len(tokens) == 0:
        raise ValueError(f"new words begin as tokens in [0, {embedding.shape[0]}): {outside or 'there are none'}")
    return embedding[np.asarray(tokens)].astype(jnp.float32)


def with_tokens(params: Params, rows: Float[Array, "n dim"], table: str = TABLE) -> Params:
    """Parameters with rows below the token embedding: row i is token vocab + i of a module whose vocab is n larger.

    vocab counts the table's rows, of which some tokenizers use fewer: T5's has 32,100 tokens, its table 32,128 rows.
    The rows take the table's dtype. Raises ValueError where there is no table at that path, or rows have another width.
    """
    flat = flatten_dict(params, keep_empty_nodes=True, sep="/")
    embedding = _table(flat, table)
    if rows.shape[1] != embedding.shape[1]:
        raise ValueError(f"new words have {rows.shape[1]} numbers each, where {table} has {embedding.shape[1]}")
    flat[table] = jnp.concatenate([embedding, rows.astype(embedding.dtype)])
    return unflatten_dict(flat, sep="/")


def _table(flat: dict[str, Array], table: str) -> Float[Array, "vocab dim"]:
    if table not in flat:
        known = ", ".join(path for path in flat if path.endswith("embedding")) or "none"
        raise ValueError(f"there is no token embedding at {table}; there is {known}")
    return flat[table]
