"""Containers: what is written comes back, and nothing damaged or foreign gets as far as being loaded."""

import json
import os
import shutil
import struct
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from blockfuse import target
from blockfuse.errors import ArtifactError
from blockfuse.report import Report, StepRecord
from blockfuse.runtime import artifact, opening
from blockfuse.runtime.library import ALIGNMENT, Batch, Constant, Layout, Library, Port, aligned_copy
from blockfuse.runtime.variants import Variant
from blockfuse.target import CPU_CLASSES, parse_target

REPORT = Report("n", "cpu:generic", steps=(StepRecord("block1", "basic", "y"),))
MEMBERS = ("manifest.json", "library.so", "weights.bin")


def library(**changes):
    data = {
        "name": "net",
        "target": target.parse_target("cpu:generic", threads=3),
        "inputs": (Port("x", (1, 3, 8, 8), "float32", Layout.PLAIN, 4),),
        "outputs": (Port("y", (1, 5), "float16"), Port("z", (1, 2, 2, 2), "float32", Layout.NHWC)),
        "constants": (Constant(0, (3, 4), "float32"), Constant(64, (5,), "int64")),
        "layout_changes": 2,
        "code": bytes(range(256)) * 5,
        "weights": aligned_copy(np.arange(104, dtype=np.uint8)),
    }
    return Library(**{**data, **changes})


def any_batch():
    """A network that takes any batch."""
    ports = {
        "inputs": (Port("x", (2, 3, 8, 8), "float32", Layout.PLAIN, 4, any_batch=True),),
        "outputs": (Port("y", (2, 5), any_batch=True),),
    }
    return library(**ports, batch=Batch(2, 1000))


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "net.bf"
    artifact.save([Variant(library(), REPORT)], path)
    return path


def refusal(path):
    """The one line with which a container is refused."""
    with pytest.raises(ArtifactError) as caught:
        artifact.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def rewrite(path, *, drop=(), add=(), order=MEMBERS, **options):
    """The container with other members."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name in order:
            if name not in drop:
                archive.writestr(name, contents[name])
        for name, data in add:
            archive.writestr(name, data)


def edit(path, change):
    """The container with another manifest; ``change`` edits it in place."""
    with zipfile.ZipFile(path) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    change(manifest)
    with zipfile.ZipFile(path) as archive:
        others = [(name, archive.read(name)) for name in MEMBERS[1:]]
    rewrite(path, order=(), add=[("manifest.json", json.dumps(manifest)), *others])


def data_offsets(path):
    """Where each member's bytes start."""
    raw = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
    starts = {}
    for info in infos:
        name, extra = struct.unpack_from("<26xHH", raw, info.header_offset)
        starts[info.filename] = (info.header_offset + 30 + name + extra, info.file_size)
    return starts


def contents(variant):
    return variant.library.code, variant.library.weights.tobytes(), variant.report


# ---- what is written -------------------------------------------------------------------------------------------------
def test_everything_comes_back(path):
    (variant,) = artifact.load(path)
    loaded, original = variant.library, library()
    for name in ("name", "target", "inputs", "outputs", "constants", "layout_changes", "code"):
        assert getattr(loaded, name) == getattr(original, name)
    np.testing.assert_array_equal(loaded.weights, original.weights)
    assert loaded.weights.ctypes.data % ALIGNMENT == 0
    assert variant.report == REPORT


def test_a_network_that_takes_any_batch(tmp_path):
    path = tmp_path / "n.bf"
    artifact.save([Variant(any_batch(), REPORT)], path)
    loaded = artifact.load(path)[0].library
    assert loaded.batch == Batch(2, 1000)
    assert str(loaded.inputs[0]) == "x float32[N, 3, 8, 8]"
    assert loaded.inputs[0].at(7).shape == (7, 3, 8, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["variants"][0].update(batch=None), "gives 'x' another batch than the network"),
        (
            lambda m: m["variants"][0].update(batch={"planned": 3, "most": 1000}),
            "gives 'x' another batch than the network",
        ),
        (lambda m: m["variants"][0]["outputs"][0].update(any_batch=False), "gives 'y' another batch than the network"),
        (lambda m: m["variants"][0]["outputs"][0].update(shape=[]), "gives 'y' another batch than the network"),
        (lambda m: m["variants"][0].update(batch={"planned": 0, "most": 1000}), "takes a batch of no images"),
        (lambda m: m["variants"][0].update(batch={"planned": 2, "most": 0}), "takes a batch of no images"),
        (lambda m: m["variants"][0].update(batch={"planned": 2}), "has no 'most' that is a int"),
        (lambda m: m["variants"][0].pop("batch"), "has no 'batch' that is a dict"),
    ],
)
def test_a_batch_that_contradicts_itself(tmp_path, change, message):
    path = tmp_path / "n.bf"
    artifact.save([Variant(any_batch(), REPORT)], path)
    edit(path, change)
    assert message in refusal(path)


def test_a_network_without_weights(tmp_path):
    empty = library(constants=(), weights=np.empty(0, np.uint8))
    artifact.save([Variant(empty, REPORT)], tmp_path / "n.bf")
    assert artifact.load(tmp_path / "n.bf")[0].library.weights.size == 0


def test_the_container_is_a_plain_uncompressed_zip(path):
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == list(MEMBERS)
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        manifest = json.loads(archive.read("manifest.json"))
    assert set(manifest["versions"]) == {"blockfuse", "apache-tvm", "apache-tvm-ffi"}
    assert manifest["variants"][0]["target"]["threads"] == 3


def test_equal_networks_give_equal_files(path, tmp_path):
    report = replace(REPORT, seconds={"read": 1.5})  # times differ whenever something is compiled
    artifact.save([Variant(library(), report)], tmp_path / "again.bf")
    assert (tmp_path / "again.bf").read_bytes() == path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert {info.date_time[0] for info in archive.infolist()} == {1980}


def test_relative_paths_work(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    assert artifact.load("net.bf")[0].library.name == "net"
    artifact.save([Variant(library(), REPORT)], "other.bf")
    assert (path.parent / "other.bf").exists()


def test_permissions_follow_the_mask_of_the_process(path):
    mask = os.umask(0o027)
    try:
        artifact.save([Variant(library(), REPORT)], path)
    finally:
        os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_failed_save_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match=r"cannot write .*net.bf: No space left on device"):
        artifact.save([Variant(library(code=b"other"), REPORT)], path)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["net.bf"]


@pytest.mark.parametrize("name", ["missing/net.bf", "folder.bf"])
def test_places_that_cannot_be_written(tmp_path, name):
    (tmp_path / "folder.bf").mkdir()
    with pytest.raises(ArtifactError, match=r"cannot write .*: (No such file or directory|Is a directory)"):
        artifact.save([Variant(library(), REPORT)], tmp_path / name)
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder.bf"]


def test_a_missing_file(tmp_path):
    assert refusal(tmp_path / "no.bf").endswith("No such file or directory")


# ---- damage ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_a_flipped_byte_in_a_member(path, member, place):
    raw = bytearray(path.read_bytes())
    start, size = data_offsets(path)[member]
    raw[start + int(place * size)] ^= 1
    path.write_bytes(raw)
    assert member in refusal(path)


def test_flipped_bytes_between_the_members_are_refused_or_harmless(path):
    raw = path.read_bytes()
    (original,) = artifact.load(path)
    inside = {start + i for start, size in data_offsets(path).values() for i in range(size)}
    refused = 0
    for position in sorted(set(range(len(raw))) - inside):
        for bit in (0x01, 0x80, 0xFF):
            damaged = bytearray(raw)
            damaged[position] ^= bit
            path.write_bytes(damaged)
            try:
                (loaded,) = artifact.load(path)
            except ArtifactError as error:
                assert "\n" not in str(error)  # noqa: PT017 - either outcome is right
                refused += 1
                continue
            assert contents(loaded) == contents(original)
    assert refused > 100


def test_truncation_anywhere(path):
    raw = path.read_bytes()
    for length in (0, 1, 22, 30, len(raw) // 4, len(raw) // 2, len(raw) - 23, len(raw) - 1):
        path.write_bytes(raw[:length])
        assert "is not a complete container" in refusal(path)


def test_another_file(path):
    path.write_bytes(b"\x7fELF" + bytes(1000))
    assert refusal(path).endswith("is not a complete container: File is not a zip file")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": ("weights.bin",)}, "found 'manifest.json', 'library.so'"),
        ({"order": ()}, "found nothing"),
        ({"order": MEMBERS[::-1]}, "found 'weights.bin', 'library.so', 'manifest.json'"),
        ({"add": (("extra.txt", b"x"),)}, "found 'manifest.json', 'library.so', 'weights.bin', 'extra.txt'"),
        ({"add": (("../../evil.so", b"x"),)}, "'../../evil.so'"),
        ({"compression": zipfile.ZIP_DEFLATED}, "manifest.json is compressed or encrypted"),
    ],
)
def test_other_members(path, change, message):
    rewrite(path, **change)
    assert message in refusal(path)


def test_two_members_of_one_name(path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        rewrite(path, add=(("library.so", b"other"),))
    assert "'weights.bin', 'library.so'" in refusal(path)


def test_a_member_that_claims_more_bytes_than_the_file_has(path):
    size = 10**12
    edit(path, lambda manifest: manifest["members"]["weights.bin"].update(size=size))
    assert f"weights.bin has 104 bytes, the manifest says {size}" in refusal(path)
    raw = bytearray(path.read_bytes())
    place = raw.rindex(b"weights.bin") - 46
    raw[place + 20 : place + 28] = struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFF0)
    path.write_bytes(raw)
    edited = refusal(path)
    assert "the manifest says" in edited


# ---- other versions and machines -------------------------------------------------------------------------------------
def test_a_newer_container_names_both_versions(path):
    edit(path, lambda manifest: manifest.update(schema=4, versions={"blockfuse": "9.9"}))
    assert refusal(path).endswith("has container version 4, written by blockfuse 9.9; this blockfuse reads version 3")


def test_other_cpu_features(tmp_path, monkeypatch):
    path = tmp_path / "n.bf"
    artifact.save([Variant(library(target=CPU_CLASSES["cpu:avx512"]), REPORT)], path)
    monkeypatch.setattr(target, "cpu_features", lambda: frozenset(CPU_CLASSES["cpu:avx2"].features))
    monkeypatch.setattr(target.platform, "machine", lambda: "x86_64")
    assert "compiled for cpu:avx512 and cannot run here: this machine lacks avx512f, avx512bw" in refusal(path)


def test_another_processor(tmp_path):
    path = tmp_path / "n.bf"
    artifact.save([Variant(library(target=replace(CPU_CLASSES["cpu:generic"], machine="s390x")), REPORT)], path)
    assert "this machine lacks an s390x processor" in refusal(path)


@pytest.mark.parametrize("text", ["", "[1, 2]", "{", "nul", "\x00", "[" * 100_000])
def test_a_manifest_that_is_no_manifest(path, text):
    with zipfile.ZipFile(path) as archive:
        others = [(name, archive.read(name)) for name in MEMBERS[1:]]
    rewrite(path, order=(), add=[("manifest.json", text), *others])
    assert "manifest is not JSON" in refusal(path) or "has container version None" in refusal(path)


def walk(data, way=()):
    """Every place in nested JSON data."""
    yield way
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from walk(value, (*way, key))


def test_every_field_of_the_manifest_is_checked(path):
    raw = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    for way in walk(manifest):
        if not way or way[0] == "versions" or way[2:3] == ("report",):
            continue
        for wrong in (None, -1, "odd", [], {}):

            def change(data, way=way, wrong=wrong):
                for key in way[:-1]:
                    data = data[key]
                data[way[-1]] = wrong

            path.write_bytes(raw)
            edit(path, change)
            try:
                artifact.load(path)
            except ArtifactError as error:
                assert "\n" not in str(error)  # noqa: PT017 - some changes keep the type


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["variants"][0].pop("inputs"), "its manifest has no 'inputs' that is a list"),
        (lambda m: m["variants"][0]["inputs"][0].update(shape=[1, "a"]), "holds the shape [1, 'a']"),
        (lambda m: m["variants"][0]["inputs"][0].update(dtype="object"), "holds the type 'object'"),
        (lambda m: m["variants"][0]["inputs"][0].update(layout="NCHW16c"), "the unknown layout 'NCHW16c'"),
        (lambda m: m["variants"][0]["inputs"][0].update(alignment=0), "the alignment 0"),
        (lambda m: m["variants"][0]["constants"][1].update(offset=65), "offset 65, which is no multiple of 64"),
        (
            lambda m: m["variants"][0]["constants"][1].update(offset=128),
            "places a constant behind the end of the weights",
        ),
        (lambda m: m["variants"][0]["target"].update(threads=-1), "holds -1 as 'threads'"),
        (lambda m: m["variants"][0]["target"].update(threads=True), "has no 'threads' that is a int"),
        (lambda m: m["members"]["library.so"].update(sha256="x"), "holds a malformed SHA-256"),
    ],
)
def test_wrong_fields(path, change, message):
    edit(path, change)
    assert message in refusal(path)


def test_loading_leaves_nothing_behind(path, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    artifact.load(path)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    refusal(path)
    assert not list(temporary.iterdir())
    shutil.rmtree(temporary)


def test_memory_is_not_taken_before_sizes_are_checked(path, monkeypatch):
    edit(path, lambda manifest: manifest["members"]["library.so"].update(size=10**15))
    monkeypatch.setattr(opening, "aligned_empty", lambda _: pytest.fail("memory was taken"))
    refusal(path)


# ---- sources ---------------------------------------------------------------------------------------------------------
SOURCES = {"bf_a.program": "program bf_a: größer\n", "bf_a.cu": "__global__ void bf_a() {}\n"}


@pytest.fixture
def with_sources(tmp_path):
    path = tmp_path / "kept.bf"
    artifact.save([Variant(library(sources=SOURCES), REPORT)], path)
    return path


def test_sources_come_back_and_are_members_of_their_own(with_sources):
    assert artifact.load(with_sources)[0].library.sources == SOURCES
    with zipfile.ZipFile(with_sources) as archive:
        assert archive.namelist() == [*MEMBERS, "sources/bf_a.cu", "sources/bf_a.program"]
        assert archive.read("sources/bf_a.cu").decode() == SOURCES["bf_a.cu"]


def test_a_changed_source_is_noticed(with_sources):
    start, size = data_offsets(with_sources)["sources/bf_a.program"]
    raw = bytearray(with_sources.read_bytes())
    raw[start + size - 1] ^= 1
    with_sources.write_bytes(raw)
    assert "is damaged" in refusal(with_sources)


@pytest.mark.parametrize("name", ["sources/../../x", "sources/.x", "sources/a/b", "notes.txt"])
def test_a_manifest_names_no_other_members(path, name):
    def add(manifest):
        manifest["members"][name] = manifest["members"]["library.so"]

    edit(path, add)
    assert f"unknown member {name!r}" in refusal(path)


def test_a_source_the_manifest_does_not_list(path):
    rewrite(path, add=[("sources/x.cu", b"")])
    assert "its manifest lists other members" in refusal(path)


# ---- folders ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "net"
    artifact.save_folder([Variant(library(sources=SOURCES), REPORT)], path)
    return path


def test_a_folder_holds_the_same(folder, with_sources):
    (variant,) = artifact.load(folder)
    one, other = variant.library, artifact.load(with_sources)[0].library
    assert variant.report == REPORT
    for name in ("name", "target", "inputs", "outputs", "constants", "layout_changes", "code", "sources"):
        assert getattr(one, name) == getattr(other, name)
    np.testing.assert_array_equal(one.weights, other.weights)
    assert one.weights.ctypes.data % ALIGNMENT == 0


@pytest.mark.parametrize("name", ["library.so", "weights.bin", "sources/bf_a.cu"])
def test_a_damaged_folder_is_refused(folder, name):
    data = (folder / name).read_bytes()
    for wrong in (bytes([data[0] ^ 1]) + data[1:], data[:-1], data + b"0"):
        (folder / name).write_bytes(wrong)
        assert f"is damaged: {name} has" in refusal(folder)
    (folder / name).unlink()
    assert f"cannot read {folder / name}: No such file" in refusal(folder)


def test_a_folder_that_is_none(tmp_path):
    assert "manifest.json: No such file" in refusal(tmp_path)


def test_another_machines_container_is_read_on_request(tmp_path):
    other = library(target=replace(CPU_CLASSES["cpu:generic"], machine="sparc"))
    artifact.save([Variant(other, REPORT)], tmp_path / "n.bf")
    assert "an sparc processor" in refusal(tmp_path / "n.bf")
    assert artifact.load(tmp_path / "n.bf", any_machine=True)[0].library.target == other.target


# ---- several targets -------------------------------------------------------------------------------------------------
def two(**changes):
    """A network for two GPUs, whose code and report differ, and what is changed in the second one."""
    one = library(target=parse_target("sm_80", 1), sources=SOURCES)
    other = replace(one, target=parse_target("sm_90a", 1), code=b"other", **changes)
    return [Variant(one, REPORT), Variant(other, replace(REPORT, target="sm_90a"))]


def test_every_variant_comes_back(tmp_path):
    weights = aligned_copy(np.arange(104, dtype=np.uint8)[::-1])
    saved = two(weights=weights, constants=(Constant(64, (7,), "float16"),), sources={"bf_b.cu": "// b\n"})
    artifact.save(saved, tmp_path / "n.bf")
    artifact.save_folder(saved, tmp_path / "n")
    for path in (tmp_path / "n.bf", tmp_path / "n"):
        loaded = artifact.load(path)
        assert [one.name for one in loaded] == ["sm_80", "sm_90a"]
        for one, other in zip(saved, loaded, strict=True):
            assert contents(one) == contents(other)
            for name in ("name", "target", "inputs", "outputs", "constants", "sources"):
                assert getattr(one.library, name) == getattr(other.library, name)


def test_every_file_is_hashed_once(tmp_path, monkeypatch):
    hashed, take = [], artifact._hash
    monkeypatch.setattr(artifact, "_hash", lambda data: hashed.append(len(data)) or take(data))
    artifact.save(two(), tmp_path / "n.bf")
    assert len(hashed) == 2 * (len(MEMBERS) - 1 + len(SOURCES))


def test_equal_files_are_stored_once(tmp_path):
    artifact.save(two(), tmp_path / "n.bf")
    with zipfile.ZipFile(tmp_path / "n.bf") as archive:
        names = [f"sm_80/{name}" for name in (*MEMBERS[1:], *(f"sources/{name}" for name in sorted(SOURCES)))]
        assert archive.namelist() == ["manifest.json", *names, "sm_90a/library.so"]
    assert artifact.load(tmp_path / "n.bf")[1].library.sources == SOURCES


@pytest.mark.parametrize(
    "member", ["sm_80/library.so", "sm_90a/library.so", "sm_80/weights.bin", "sm_80/sources/bf_a.cu"]
)
def test_damage_in_any_variant_is_noticed(tmp_path, member):
    path = tmp_path / "n.bf"
    artifact.save(two(), path)
    raw = bytearray(path.read_bytes())
    raw[data_offsets(path)[member][0]] ^= 1
    path.write_bytes(raw)
    assert f"{member} has SHA-256" in refusal(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(variants=[]), "describes no variant"),
        (lambda m: m["variants"][0]["files"].pop("library.so"), "has no 'library.so' that is a str"),
        (lambda m: m["variants"][0]["files"].update({"library.so": "a.so"}), "no member that is the file 'library.so'"),
        (lambda m: m["variants"][0]["files"].update({"../a": "library.so"}), "names the unknown file '../a'"),
        (lambda m: m["members"].update({"sm_80/../x": {}}), "names the unknown member 'sm_80/../x'"),
    ],
)
def test_files_that_are_not_there(path, change, message):
    edit(path, change)
    assert message in refusal(path)
