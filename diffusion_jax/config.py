"""From an entry of a config to a function of the package, or of anybody's.

An entry is dict(name=..., **arguments). A bare name is a public function of its home module; "package.module:function"
is found wherever Python finds it, so an idea, its config and its sweep fit in one file.
"""

import difflib
import importlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType, ModuleType

from ml_collections import ConfigDict


def resolve(name: str, home: ModuleType) -> Callable:
    """The function that a config names. Raises ValueError, with the nearest names, where there is none."""
    module_name, _, function_name = name.rpartition(":")
    if module_name:
        try:
            home = importlib.import_module(module_name)
        except ImportError as error:
            raise ValueError(f"{name}: cannot import {module_name} ({error}); write package.module:function") from error
    names = public_names(home)
    found = getattr(home, function_name, None)
    if function_name in names or (module_name and callable(found) and not function_name.startswith("_")):
        return found
    near = difflib.get_close_matches(function_name, names, n=3, cutoff=0.4)
    near = near or [name for name in names if function_name and name.startswith(function_name)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(names)}"
    raise ValueError(f"{home.__name__} has no {function_name!r}: {hint}")


def public_names(home: ModuleType) -> list[str]:
    """What a bare name of a config may be: the functions and classes which the module itself defines or exports."""
    exported = getattr(home, "__all__", None)
    return sorted(
        name
        for name, value in vars(home).items()
        if callable(value)
        and not name.startswith("_")
        and (name in exported if exported is not None else getattr(value, "__module__", None) == home.__name__)
    )


def bind(
    entry: Mapping | ConfigDict,
    home: ModuleType,
    given: int = 0,
    named: Sequence[str] = (),
    inner: Mapping[str, Callable] = MappingProxyType({}),
) -> Callable:
    """The named function with the entry's arguments bound.

    When it is called, `given` more come by position, and those that `named` lists by name if it has them. An argument
    may be an entry itself, such as the schedule that another one shifts: inner["schedule"] makes its value of it, and
    likewise of a tuple.
    Raises ValueError for an entry without a name, an unknown name, an argument that the function does not take or that
    it misses, or a function that cannot be called in that way at all.
    """
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    for key in arguments.keys() & inner.keys():
        if isinstance(arguments[key], Mapping | ConfigDict | tuple):
            arguments[key] = inner[key](arguments[key])
    name = arguments.pop("name", None)
    if not isinstance(name, str):
        raise ValueError(f"a config entry for {home.__name__} needs a name, but holds {dict(arguments)}")
    function = resolve(name, home)
    signature = inspect.signature(function)
    if not any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        for key in arguments.keys() - signature.parameters.keys():
            near = difflib.get_close_matches(key, signature.parameters, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(signature.parameters) or 'none'}"
            raise ValueError(f"{name} takes no argument {key!r}: {hint}")
    try:
        signature.bind(*[None] * given, **accepted(function, **dict.fromkeys(named)) | arguments)
    except TypeError as error:
        raise ValueError(f"{name} does not fit here ({error}): it is {name}{signature}") from error
    return partial(function, **arguments)


def accepted(function: Callable, **arguments) -> dict:
    """Those of the arguments which a function has a parameter for, unless a config gave that: see `bind`."""
    taken = inspect.signature(function).parameters.keys() - getattr(function, "keywords", {}).keys()
    return {name: value for name, value in arguments.items() if name in taken}


def as_json(config: ConfigDict) -> dict:
    """A config as config.json holds it: dicts, lists, strings and numbers."""
    return json.loads(config.to_json_best_effort())


def differences(old: Mapping, new: Mapping, prefix: str = "") -> list[str]:
    """What changed between two configs, a line each: `key: old -> new`."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, f"{prefix}{key}.")
        elif json.dumps(before) != json.dumps(after):
            lines.append(f"{prefix}{key}: {before} -> {after}")
    return lines


def foreign_names(config: Mapping) -> list[str]:
    """The functions of other packages that a config names, "package.module:function"."""
    names = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            names += foreign_names(value)
        elif key == "name" and ":" in str(value):
            names.append(value)
    return names
