"""Any data set of TensorFlow Datasets that works without TensorFlow, with captions made from its labels."""

import difflib
import functools
import string
from collections.abc import Callable, Sequence

from diffusion_jax.data.broken import reading
from diffusion_jax.data.examples import Example, Indexed, Source
from diffusion_jax.data.splits import check_split
from diffusion_jax.data.transforms import decode


def tfds(
    dataset: str,
    split: str,
    data_dir: str = "data",
    caption: str | Sequence[str] = "a photo of a {label}",
    image_key: str = "image",
    train: str = "",
    validation: str = "",
    download: bool = True,
) -> Source:
    """A TensorFlow Datasets name ("mnist", "oxford_flowers102", "imagenet2012/config:1.0.0") as captioned pictures.

    caption is a template or several (the main one first) over the data set's own features: class labels by name, text
    and numbers as they are. train and validation are its splits to use, in its own notation ("train[:90%]"); by
    default "train", and "validation" or else "test" or else the last 5% of "train". With download, data that are not
    in data_dir yet are fetched and prepared in the array_record format.

    Raises ValueError for an unknown name (the nearest are offered), split or feature, and for data that need
    TensorFlow or cannot be had; FileNotFoundError when nothing is prepared and download is False. Reading an
    example raises BrokenData, with its file, when the record is broken.
    """
    check_split(split)
    builder = _builder(dataset, data_dir)
    if not builder.info.splits:
        if not download:
            raise FileNotFoundError(f"{dataset} is not in {data_dir}: allow download=True once.")
        _ask(dataset, builder.download_and_prepare)
    theirs = {"train": train, "validation": validation}[split] or _default_split(split, list(builder.info.splits))
    templates = (caption,) if isinstance(caption, str) else tuple(caption)
    features = dict(builder.info.features.items())
    _check_features(dataset, templates, image_key, features)
    records = _ask(dataset, functools.partial(_records, builder, theirs, image_key))
    files = [(part.filename, part.take) for part in builder.info.splits[theirs].file_instructions]
    said = dict(features=features, templates=templates, image_key=image_key)
    read = functools.partial(_read, f"{dataset}/{theirs}", records, files, **said)
    return Indexed(len(records), read, functools.partial(_captions, records, files, **said))


def _builder(name: str, data_dir: str):
    import tensorflow_datasets  # here, because the import takes most of a second

    try:
        return tensorflow_datasets.builder(name, data_dir=data_dir, file_format="array_record")
    except tensorflow_datasets.core.DatasetNotFoundError:
        near = difflib.get_close_matches(name, tensorflow_datasets.list_builders(with_community_datasets=False), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "its catalog lists the names."
        raise ValueError(f"TensorFlow Datasets has no {name!r}: {hint}") from None
    except Exception as error:
        raise _refusal(name, error) from None


def _records(builder, split: str, image_key: str) -> Sequence:
    import tensorflow_datasets

    return builder.as_data_source(split, decoders={image_key: tensorflow_datasets.decode.SkipDecoding()})


def _default_split(split: str, has: list[str]) -> str:
    if split == "validation":
        return next((name for name in ("validation", "test") if name in has), "train[95%:]")
    return "train" if {"validation", "test"} & set(has) else "train[:95%]"


def _check_features(name: str, templates: tuple[str, ...], image_key: str, features: dict) -> None:
    for key in {image_key, *(field for t in templates for _, field, _, _ in string.Formatter().parse(t) if field)}:
        if key not in features:
            raise ValueError(f"{name} has no feature {key!r}; it has {', '.join(features)}: see caption and image_key.")


def _read(name: str, records: Sequence, files: list, i: int, *, image_key: str, **said) -> Example:
    with reading(files, i):
        record = records[i]
        image = decode(record[image_key])
    return {"image": image, "captions": _said(record, image_key=image_key, **said), "id": f"{name}/{i}"}


def _captions(records: Sequence, files: list, i: int, **said) -> tuple[str, ...]:
    with reading(files, i):
        record = records[i]
    return _said(record, **said)


def _said(record: dict, *, features: dict, templates: tuple, image_key: str) -> tuple[str, ...]:
    words = {key: _words(features[key], value) for key, value in record.items() if key != image_key}
    return tuple(template.format_map(words) for template in templates)


def _words(feature: object, value: object) -> object:
    if hasattr(feature, "int2str"):
        return feature.int2str(int(value)).replace("_", " ")
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _ask(name: str, call: Callable):
    try:
        return call()
    except Exception as error:
        raise _refusal(name, error) from None


def _refusal(name: str, error: Exception) -> ValueError:
    if "No module named 'tensorflow'" in str(error):
        return ValueError(f"{name} needs TensorFlow to be prepared: choose another data set, or a folder of pictures.")
    return ValueError(f"{name} cannot be had: {(str(error).strip() or type(error).__name__).splitlines()[0][:300]}")
