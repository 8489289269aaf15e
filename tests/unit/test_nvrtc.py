"""Machine code without nvcc: the library that compiles, and the fat binaries that its code goes into."""

import shutil
import struct
import subprocess
import tomllib
from pathlib import Path

import pytest

from blockfuse.build import cubin, nvrtc
from blockfuse.build.fatbin import fat_binary
from blockfuse.errors import InternalError, TargetError
from blockfuse.kernel_cache import KernelCache
from blockfuse.tools import doctor

ROOT = Path(__file__).parents[2]

KERNEL = """#include <cuda_fp16.h>
extern "C" __global__ void scale(half* x) { x[threadIdx.x] = __hmul(x[threadIdx.x], __float2half(2.0f)); }
"""

# Answers like NVRTC: the code is the source behind an ELF header, the log complains of what the source calls bad.
STUB = """
#include <cstdio>
#include <cstring>
#include <string>
struct Program { std::string source, result, log; };
extern "C" {
int nvrtcVersion(int* major, int* minor) { *major = 13; *minor = 7; return 0; }
int nvrtcCreateProgram(Program** p, const char* source, const char*, int, void*, void*) {
  *p = new Program{source, "", ""};
  return 0;
}
int nvrtcDestroyProgram(Program** p) { delete *p; return 0; }
int nvrtcCompileProgram(Program* p, int count, const char** options) {
  std::string target = strchr(options[0], '=') + 1;
  if (target == "sm_70") { p->log = "nvrtc: error: invalid value for --gpu-architecture (-arch)\\n"; return 5; }
  if (p->source.find("bad") != std::string::npos) { p->log = "a warning\\nk.cu(3): error: bad\\nmore"; return 6; }
  bool elf = target[0] == 's';
  p->result = (elf ? std::string("\\177ELF\\2\\1\\1A\\10", 9) : std::string(".version 9.0\\n")) + target + p->source;
  return 0;
}
#define GETTER(what, member) \\
  int nvrtcGet##what##Size(Program* p, size_t* size) { *size = p->member.size() + 1; return 0; } \\
  int nvrtcGet##what(Program* p, char* out) { memcpy(out, p->member.c_str(), p->member.size() + 1); return 0; }
GETTER(CUBIN, result) GETTER(PTX, result) GETTER(ProgramLog, log)
}
"""


@pytest.fixture(scope="module")
def stub(tmp_path_factory):
    """A toolkit without nvcc."""
    home = tmp_path_factory.mktemp("toolkit")
    (home / "lib64").mkdir()
    (home / "include" / "cuda" / "std").mkdir(parents=True)
    (home / "include" / "cuda_fp16.h").touch()
    (home / "include" / "cuda" / "std" / "cstdint").touch()
    (home / "stub.cpp").write_text(STUB)
    subprocess.run(
        [shutil.which("g++"), "-shared", "-fPIC", "-o", home / "lib64" / "libnvrtc.so.13", home / "stub.cpp"],
        check=True,
    )
    return home


@pytest.fixture
def only_stub(stub, monkeypatch):
    monkeypatch.setenv("CUDA_HOME", str(stub))
    monkeypatch.setattr(cubin, "find_nvcc", _no_nvcc)
    return stub


def _no_nvcc():
    raise TargetError("no nvcc")


def images(code):
    """Kind, architecture, flags and content of every image."""
    magic, version, header, size = struct.unpack_from("<IHHQ", code)
    assert (magic, version, header, size) == (0xBA55ED50, 1, 16, len(code) - 16)
    found, position = [], 16
    while position < len(code):
        kind, _, header, size, _, _, minor, major, arch, _, flags = struct.unpack_from("<HHIQIIHHIQQ", code, position)
        found.append((kind, arch, flags, (major, minor), code[position + header : position + header + size]))
        position += header + size
    return found


@pytest.mark.usefixtures("only_stub")
def test_nvrtc_stands_in_for_nvcc(tmp_path):
    compiler = cubin.find_compiler()
    assert isinstance(compiler, nvrtc.Nvrtc)
    assert compiler.version.startswith("NVRTC 13.7 ")
    (code,) = cubin.compile_kernels(["source"], ["sm_80", "sm_90a"], KernelCache(tmp_path / "cache"))
    first, second, ptx = images(code)
    assert first[:4] == (2, 80, 0x11, (1, 8))
    assert second[:4] == (2, 90, 0x100011, (1, 8))
    assert b"sm_90asource" in second[4]
    assert ptx[:4] == (1, 80, 0x11, (9, 0))
    assert ptx[4].rstrip(b"\0") == b".version 9.0\ncompute_80source"
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.usefixtures("only_stub")
def test_what_nvrtc_rejects_is_one_line():
    with pytest.raises(InternalError, match=r"^NVRTC rejects a kernel: k.cu\(3\): error: bad$"):
        cubin.compile_kernels(["bad"], ["sm_90"], KernelCache(None))
    with pytest.raises(TargetError, match=r"^NVRTC cannot compile for sm_70: nvrtc: error: invalid value"):
        cubin.compile_kernels(["source"], ["sm_70"], KernelCache(None))


def test_without_headers_there_is_no_nvrtc(only_stub, monkeypatch):
    monkeypatch.setattr(nvrtc, "_toolkits", lambda: [only_stub / "lib64"])
    monkeypatch.setattr(nvrtc, "_packages", list)
    assert nvrtc.find_nvrtc() is None


def test_fat_binaries_are_those_of_the_toolkit(tmp_path):
    tools = {name: shutil.which(name) for name in ("nvcc", "fatbinary")}
    if not all(tools.values()):
        pytest.skip("needs nvcc and fatbinary")
    (tmp_path / "k.cu").write_text(KERNEL)
    for arch in ("sm_80", "sm_90a"):
        subprocess.run([tools["nvcc"], "-cubin", f"-arch={arch}", "-o", arch, "k.cu"], cwd=tmp_path, check=True)
    names = [f"--image3=kind=elf,sm={arch[3:]},file={arch}" for arch in ("sm_80", "sm_90a")]
    command = [tools["fatbinary"], "-64", "--compress-mode=none", "--create=all", *names]
    subprocess.run(command, cwd=tmp_path, check=True)
    ours = fat_binary({arch: (tmp_path / arch).read_bytes() for arch in ("sm_80", "sm_90a")})
    assert ours == (tmp_path / "all").read_bytes()


def test_a_real_nvrtc_makes_code_for_every_architecture():
    compiler = nvrtc.find_nvrtc()
    if compiler is None:
        pytest.skip("NVRTC is not installed")
    *code, ptx = images(compiler.compile(KERNEL, ["sm_80", "sm_90a"]))
    assert [image[1] for image in code] == [80, 90]
    assert all(image[4][:4] == b"\x7fELF" for image in code)
    assert b".target sm_80" in ptx[4]
    with pytest.raises(InternalError, match=r"NVRTC rejects a kernel: .*error"):
        compiler.compile(KERNEL.replace("__hmul", "__no"), ["sm_80"])
    with pytest.raises(TargetError, match="NVRTC cannot compile for sm_12: "):
        compiler.compile(KERNEL, ["sm_12"])


def test_without_a_compiler_the_extra_is_named(monkeypatch, tmp_path):
    for name in ("CUDA_HOME", "CUDA_PATH", "PATH"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(doctor, "find_nvrtc", lambda: None)
    assert "pip install 'blockfuse[cuda]'" in doctor._nvcc().detail
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["cuda"]
    assert {line.partition(">")[0] for line in extra} == {
        "nvidia-cuda-cccl",
        "nvidia-cuda-crt",
        "nvidia-cuda-nvrtc",
        "nvidia-cuda-runtime",
    }
