import numpy as np
import pytest
import tensorflow_datasets
from PIL import Image

from diffusion_jax.data.tfds import tfds


class FruitForTests(tensorflow_datasets.core.GeneratorBasedBuilder):
    VERSION = tensorflow_datasets.core.Version("1.0.0")
    code_path = None  # there are no checksums of downloads to look for

    def _info(self):
        return self.dataset_info_from_configs(
            features=tensorflow_datasets.features.FeaturesDict(
                {
                    "image": tensorflow_datasets.features.Image(shape=(None, None, 3)),
                    "label": tensorflow_datasets.features.ClassLabel(names=["apple", "ripe_pear"]),
                    "where": tensorflow_datasets.features.Text(),
                    "ripeness": np.int64,
                }
            )
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(40), "test": self._generate_examples(4)}

    def _generate_examples(self, count):
        for i in range(count):
            image = Image.new("RGB", (6, 4), (i, 0, 0))  # encoding an array would take TensorFlow
            yield i, {"image": image, "label": i % 2, "where": "im Käfig", "ripeness": i}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("data"))
    tfds("fruit_for_tests", "train", folder)
    return folder


def values(source) -> list[int]:
    return [int(example["image"][0, 0, 0]) for example in source]


def test_labels_become_captions(data_dir):
    source = tfds("fruit_for_tests", "train", data_dir, download=False)
    assert sorted(values(source)) == list(range(40))
    for example in source:
        assert example["image"].shape == (4, 6, 3)
        label = "ripe pear" if example["image"][0, 0, 0] % 2 else "apple"
        assert example["captions"] == (f"a photo of a {label}",)
    assert len({example["id"] for example in source}) == 40
    assert [source.captions(i) for i in range(len(source))] == [example["captions"] for example in source]


def test_templates_may_name_any_feature(data_dir):
    templates = ("{label} {where}", "{label} of ripeness {ripeness:02}")
    example = tfds("fruit_for_tests", "train", data_dir, caption=templates)[0]
    number = int(example["image"][0, 0, 0])
    label = "ripe pear" if number % 2 else "apple"
    assert example["captions"] == (f"{label} im Käfig", f"{label} of ripeness {number:02}")


def test_validation_is_what_the_data_set_has_for_it(data_dir):
    assert len(tfds("fruit_for_tests", "validation", data_dir)) == 4
    parts = dict(train="train[:75%]", validation="train[75%:]")
    train, held = (values(tfds("fruit_for_tests", split, data_dir, **parts)) for split in ("train", "validation"))
    assert (len(train), len(held)) == (30, 10)
    assert sorted(train + held) == list(range(40))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fruit_for_test", {}, "did you mean fruit_for_tests"),
        ("fruit_for_tests", dict(caption="a {lable}"), "no feature 'lable'; it has image, label, where, ripeness"),
        ("fruit_for_tests", dict(image_key="picture"), "no feature 'picture'"),
        ("fruit_for_tests", dict(train="trian"), "fruit_for_tests cannot be had: Unknown split"),
        ("coco_captions", {}, "needs TensorFlow"),
    ],
)
def test_bad_input_is_one_clear_line(data_dir, name, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        tfds(name, "train", data_dir, **options)
    assert "\n" not in str(caught.value)


def test_nothing_is_fetched_unless_allowed(tmp_path):
    with pytest.raises(FileNotFoundError, match="not in"):
        tfds("mnist", "train", str(tmp_path), download=False)
