"""Where the files of a pretrained text encoder are, by its name."""

import os
import re
from pathlib import Path

from diffusion_jax.files import folder_at

FILES = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "special_tokens_map.json"]
FILES += ["vocab.*", "merges.txt", "spiece.model", "added_tokens.json"]


def folder_of(name: str | os.PathLike) -> Path:
    """A folder, that of a "package:folder", or where the hub's cache has a model, after fetching it if need be.

    Raises FileNotFoundError where there is nothing by the name; without a network that takes a second.
    """
    if folder := folder_at(name):
        return folder
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", str(name)):
        raise FileNotFoundError(f"no text encoder at {name}: there is no such folder")
    from huggingface_hub import snapshot_download  # here, because the import takes a second

    for cached in (True, False):
        try:
            folder = Path(snapshot_download(str(name), allow_patterns=FILES, local_files_only=cached, etag_timeout=1))
        except Exception as error:  # of many kinds, by what fails and in which version
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        else:  # whoever used the tokenizer alone has no more than that in the cache
            if not cached or (any(folder.glob("*.safetensors")) and (folder / "config.json").is_file()):
                return folder
    raise FileNotFoundError(
        f"no text encoder {name}: it is no folder, not in the hub's cache, and could not be fetched ({reason}). Where "
        f"there is a network, download its {', '.join(FILES[:3])} and tokenizer files, and give that folder"
    )
