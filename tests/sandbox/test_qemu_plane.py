"""The parts of virtual machines that need neither root nor QEMU: what they are made of, what is missing."""

from __future__ import annotations

import os
import types
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from prefect_coiled.errors import SandboxError
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.sandbox.qemu import host
from prefect_coiled.sandbox.qemu.command import Hardware, command, identity
from prefect_coiled.sandbox.qemu.disks import kernel_of
from prefect_coiled.sandbox.settings import Settings

NAME = "i-0123456789abcdef0"


def line(**changed: object) -> list[str]:
    """The command line of a machine."""
    parts: dict[str, object] = {
        "instance_id": NAME,
        "accelerator": ("-accel", "tcg"),
        "memory": 700,
        "kernel": Path("/image/boot/vmlinuz-1"),
        "disk": Path("/state/disk.qcow2"),
        "console": Path("/state/console.log"),
        "mac": "02:00:0a:4d:10:04",
        "tap": 7,
        "variables": {"AWS_ENDPOINT_URL": "http://198.19.0.3"},
    }
    return command(Hardware(**(parts | changed)))  # type: ignore[arg-type]


def values(words: list[str], option: str) -> list[str]:
    """What an option is given."""
    return [words[at + 1] for at, word in enumerate(words) if word == option]


def test_the_firmware_says_that_it_is_on_ec2_and_which_instance_it_is() -> None:
    uuid = identity(NAME)
    assert uuid.startswith("ec2")
    assert [len(part) for part in uuid.split("-")] == [8, 4, 4, 4, 12]
    assert identity("i-0123456789abcdef1") != uuid
    bios, system, board, _ = values(line(), "-smbios")
    assert "vendor=Amazon EC2" in bios
    assert f"uuid={uuid},serial={uuid}" in system
    assert f"asset={NAME}" in board


def test_its_serial_port_is_the_console_and_its_card_an_open_file() -> None:
    words = line(console=Path("/a,b/console.log"))
    assert values(words, "-chardev") == ["file,id=console,path=/a,,b/console.log,append=on"]
    assert values(words, "-serial") == ["chardev:console"]
    assert values(words, "-netdev") == ["tap,id=card,fd=7"]
    (append,) = values(words, "-append")
    assert append.split()[-1] == "systemd.setenv=AWS_ENDPOINT_URL=http://198.19.0.3"
    assert "root=/dev/nvme0n1" in append


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def test_who_is_not_root_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SandboxError, match="needs root"):
        host.check()


def test_what_is_not_installed_is_named_with_its_packages(
    root: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("unshare", "setpriv", "mount", "qemu-img"):
        (tmp_path / name).symlink_to("/bin/true")
    monkeypatch.setattr(host, "PATH", str(tmp_path))
    with pytest.raises(SandboxError) as caught:
        host.check()
    text = str(caught.value)
    assert "not installed: qemu-system-x86_64, mke2fs" in text
    assert "apt-get install qemu-system-x86 e2fsprogs." in text


def test_an_image_without_a_kernel_is_refused_and_the_kernel_of_the_uppermost_folder_is_taken(
    tmp_path: Path,
) -> None:
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    for folder in (upper, lower):
        (folder / "boot").mkdir(parents=True)
    image = f"{upper}:{lower}"
    with pytest.raises(SandboxError, match=r"has a kernel(.|\n)*linux-image-cloud-amd64"):
        kernel_of(image)
    (lower / "boot/vmlinuz-6.1").touch()
    assert kernel_of(image) == lower / "boot/vmlinuz-6.1"
    (upper / "boot/vmlinuz-5.10").touch()
    assert kernel_of(image) == upper / "boot/vmlinuz-5.10"


@pytest.mark.parametrize(("free", "given"), [(16000, 1024), (3400, 850), (2000, 700)])
def test_a_machine_gets_as_much_memory_as_leaves_some_for_the_others(
    free: int, given: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=free * 2**20))
    assert host.memory() == given


def test_without_memory_no_machine_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=500 * 2**20))
    with pytest.raises(SandboxError, match=r"needs 700 MiB of memory, and 500 are free"):
        host.memory()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """A QEMU that says what it is told, on a computer whose /dev/kvm answers; gives a kernel."""
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path == "/dev/kvm" or access(path, mode))
    monkeypatch.setattr(host, "PATH", f"{tmp_path}{os.pathsep}{host.PATH}")

    def make(script: str) -> Path:
        (tmp_path / host.QEMU).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / host.QEMU).chmod(0o755)
        return tmp_path / "vmlinuz"

    return make


def test_the_processor_helps_only_where_a_guest_really_runs(stand_in: Callable[[str], Path]) -> None:
    runs = stand_in("echo 'Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)'")
    assert host.accelerator(runs)[:2] == ("-accel", "kvm")


@pytest.mark.parametrize("script", ["exit 0", "echo 'KVM: entry failed' >&2; exit 1"])
def test_where_no_guest_runs_it_is_emulated_although_the_device_answers(
    stand_in: Callable[[str], Path], script: str
) -> None:
    assert host.accelerator(stand_in(script))[1].startswith("tcg")


def test_the_plane_is_known_and_a_sandbox_says_what_it_lacks() -> None:
    Settings().update({"plane": "qemu"})
    with (
        pytest.raises(SandboxError, match=r"starting a sandbox of whole machines|root_disk"),
        Sandbox({"plane": "qemu"}),
    ):
        pass
