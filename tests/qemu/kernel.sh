#!/bin/bash
# kernel.sh ROOT FOLDER: makes the layer that lets a root file system of Debian boot on hardware.
#
# It holds the kernel that Debian has for clouds, as its package has it, with modprobe, which the kernel calls: NVMe
# and ext4 are built in, so that no initramfs is needed. And it hides the stand-in for the firmware. Nothing is
# installed on this computer; the packages are those for ROOT, from where ROOT's came from. Needs root, apt and kmod.
set -euo pipefail
root=$1 folder=$2
work=$folder.work
mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial"
mkdir -p "$folder/boot" "$folder/usr/lib" "$folder/usr/bin" "$folder/usr/sbin" "$folder/etc/systemd/system"
apt=(
  -qq -o "Dir::Etc=$root/etc/apt" -o "Dir::State=$work/state" -o "Dir::State::status=$root/var/lib/dpkg/status"
  -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root
)
apt-get "${apt[@]}" update
kernel=$(apt-cache "${apt[@]}" depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p')
(cd "$work" && apt-get "${apt[@]}" download "$kernel" kmod)
for package in "$work"/*.deb; do dpkg-deb -x "$package" "$work/unpacked"; done
cp -a "$work"/unpacked/boot/vmlinuz-* "$folder/boot"
cp -a "$work/unpacked/lib/modules" "$folder/usr/lib/modules"
# In the packages /bin and /sbin are folders still; in ROOT they are links.
cp -a "$work"/unpacked/bin/* "$folder/usr/bin"
cp -a "$work"/unpacked/sbin/* "$folder/usr/sbin"
depmod -b "$folder/usr" "$(ls "$folder/usr/lib/modules")"
# As overlayfs writes that a file is not there: who the machine is comes from its firmware, or not at all.
mknod "$folder/usr/sbin/dmidecode" c 0 0
# It looks for volumes of LVM, which takes eight seconds where the processor is emulated.
ln -s /dev/null "$folder/etc/systemd/system/e2scrub_reap.service"
rm -rf "$work"
