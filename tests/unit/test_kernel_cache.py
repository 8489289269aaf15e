"""The cache of compiled kernels on disk."""

import os

import pytest

from blockfuse.kernel_cache import VARIABLE, KernelCache, default_cache, key_of

A, B, C, D = (key_of([name]) for name in "abcd")


def test_what_was_put_is_found(tmp_path):
    cache = KernelCache(tmp_path / "deep" / "cache")
    assert cache.get(A) is None
    cache.put(A, b"code")
    assert cache.get(A) == b"code"
    assert (tmp_path / "deep" / "cache").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", [b"", b"short", bytes(32) + b"code", None])
def test_damaged_files_count_as_missing(tmp_path, damage):
    cache = KernelCache(tmp_path)
    cache.put(A, b"code")
    data = (tmp_path / A).read_bytes()
    (tmp_path / A).write_bytes(data[:-1] if damage is None else damage)
    assert cache.get(A) is None


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    cache = KernelCache(tmp_path, limit=3 * (32 + 100))
    for time, key in enumerate((A, B, C)):
        cache.put(key, b"a" * 100)
        os.utime(tmp_path / key, (time, time))
    assert cache.get(A) == b"a" * 100  # now it was used
    cache.put(D, b"d" * 100)
    assert {path.name for path in tmp_path.iterdir()} == {A, C, D}


def test_what_others_keep_in_the_folder_stays(tmp_path):
    others = ["thesis.doc", ".new-thesis", "a" * 63, "A" * 64, "sub/notes.txt", f"{B}/notes.txt"]
    for name in others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(1000))
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / C).symlink_to(tmp_path / "thesis.doc")
    (tmp_path / ".new-01_3abcd").write_bytes(bytes(1000))  # what an interrupted process left
    cache = KernelCache(tmp_path, limit=32 + 100)
    cache.put(D, b"d" * 100)
    assert cache.sizes() == (132,)
    assert not (tmp_path / ".new-01_3abcd").exists()
    cache.clear()
    assert cache.sizes() == ()
    assert all((tmp_path / name).read_bytes() == bytes(1000) for name in (*others, C))


def test_contents_are_counted_and_cleared(tmp_path):
    cache = KernelCache(tmp_path)
    for key in (A, B):
        cache.put(key, b"code")
    assert cache.sizes() == (36, 36)
    cache.clear()
    assert cache.sizes() == ()
    assert KernelCache(None).sizes() == KernelCache(tmp_path / "none").sizes() == ()


def test_a_folder_that_cannot_be_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "cache", None):
        cache = KernelCache(folder)
        cache.put(A, b"code")
        assert cache.get(A) is None


def test_a_file_that_cannot_be_kept_leaves_nothing(tmp_path):
    (tmp_path / A / "inside").mkdir(parents=True)
    cache = KernelCache(tmp_path)
    cache.put(A, b"code")
    assert cache.get(A) is None
    assert [path.name for path in tmp_path.iterdir()] == [A]


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
