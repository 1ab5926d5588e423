#!/bin/bash
# layer.sh LOWER FOLDER BAKE: makes a layer of an image, by running BAKE/run inside of the image.
#
# LOWER are the root file systems under it, the upper first; FOLDER is where it goes. BAKE is at /run/bake inside,
# and what is in BAKE/bin goes before the image's own commands. Needs root; run it in a mount and a pid namespace
# of its own.
set -euo pipefail
lower=$1 folder=$2 bake=$3
root="$folder.root"
mkdir -p "$folder" "$folder.work" "$root"
mount -t overlay layer -o "lowerdir=$lower,upperdir=$folder,workdir=$folder.work" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs layer "$root/run"
mkdir -p "$root/run/bake"
mount --bind "$bake" "$root/run/bake"
path=/run/bake/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
chroot "$root" /usr/bin/env -i "PATH=$path" HOME=/root /run/bake/run
umount -R "$root"
rmdir "$root"
rm -rf "$folder.work"
