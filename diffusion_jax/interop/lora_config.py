"""What peft's adapter_config.json says of factors: their scale, and whether they are more than a sum with kernels."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

# Beginnings that leave the kernels as they were; others (PiSSA, OLoRA, CorDA, LoftQ) take something out of them first.
PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
OTHER_MATHS = ("alora_invocation_tokens", "layer_replication", "arrow_config", "kasa_config")


def refuse_other_kinds(config: Mapping[str, Any], file: object) -> None:
    """Raises ValueError, naming the file, for factors that are not just added to kernels as these were trained."""
    if (kind := config.get("peft_type") or "LORA") != "LORA":
        raise ValueError(f"{file} is an adapter of the kind {kind}: here there is LORA alone")
    switches = [name for name in config if name.startswith("use_") and name != "use_rslora"]
    if on := [name for name in (*switches, *OTHER_MATHS) if config.get(name)]:
        raise ValueError(f"{file} was made with {', '.join(on)}: here there is plain LoRA alone")
    if (start := config.get("init_lora_weights")) not in PLAIN_STARTS:
        raise ValueError(
            f"{file} began as {start!r}, which changes the kernels too: save it with peft's "
            "path_initial_model_for_weight_conversion, which makes plain LoRA of it"
        )


def alpha_of(config: Mapping[str, Any], module: str, rank: int) -> float:
    """The alpha of a module, by which its factors are scaled as alpha / rank; the rank itself where nothing is said.

    A pattern is a regular expression for the end of a module's name, from a dot on, and the first that fits counts.
    use_rslora: rank-stabilized LoRA (Kalajdzievski 2023), alpha / sqrt(rank).
    """
    patterns = config.get("alpha_pattern") or {}
    found = next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), None)
    alpha = float(config.get("lora_alpha", rank) if found is None else found)
    return alpha * math.sqrt(rank) if config.get("use_rslora") else alpha


def config_of(ranks: Mapping[str, int], alpha: float) -> dict[str, Any]:
    """The config of factors by what they are added to: module -> rank. alpha is one for all of them."""
    [(rank, _)] = Counter(ranks.values()).most_common(1)
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "rank_pattern": {f"^{re.escape(name)}": other for name, other in ranks.items() if other != rank},
        "target_modules": sorted(ranks),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
