"""The cache of compiled kernels on disk."""

import os

import pytest

from blockfuse.build.kernel_cache import VARIABLE, KernelCache, default_cache, key_of


def test_what_was_put_is_found(tmp_path):
    cache = KernelCache(tmp_path / "deep" / "cache")
    assert cache.get("a") is None
    cache.put("a", b"code")
    assert cache.get("a") == b"code"
    assert (tmp_path / "deep" / "cache").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", [b"", b"short", bytes(32) + b"code", None])
def test_damaged_files_count_as_missing(tmp_path, damage):
    cache = KernelCache(tmp_path)
    cache.put("a", b"code")
    data = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(data[:-1] if damage is None else damage)
    assert cache.get("a") is None


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    cache = KernelCache(tmp_path, limit=3 * (32 + 100))
    for time, name in enumerate("abc"):
        cache.put(name, name.encode() * 100)
        os.utime(tmp_path / name, (time, time))
    assert cache.get("a") == b"a" * 100  # now it was used
    cache.put("d", b"d" * 100)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c", "d"]


def test_contents_are_counted_and_cleared(tmp_path):
    cache = KernelCache(tmp_path)
    for name in "ab":
        cache.put(name, b"code")
    assert cache.sizes() == (36, 36)
    cache.clear()
    assert cache.sizes() == ()
    assert KernelCache(None).sizes() == KernelCache(tmp_path / "none").sizes() == ()


def test_a_folder_that_cannot_be_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "cache", None):
        cache = KernelCache(folder)
        cache.put("a", b"code")
        assert cache.get("a") is None


def test_the_environment_says_where(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert default_cache().folder == tmp_path
    monkeypatch.setenv(VARIABLE, "")
    assert default_cache().folder is None
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache().folder == tmp_path / "blockfuse" / "kernels"


def test_keys_depend_on_every_text_and_where_it_ends():
    assert len({key_of(parts) for parts in (["ab", "c"], ["a", "bc"], ["abc"], ["a\0b", "c"], ["a", "b\0c"])}) == 5
