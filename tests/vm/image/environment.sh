#!/bin/bash
# environment.sh LOWER FOLDER PYTHON BAKE ENV OPTION...: makes the layer of an image that holds an environment.
#
# LOWER are the root file systems under it, FOLDER is where it goes, BAKE a folder with uv, requirements.txt and
# perhaps wheels, ENV the environment's place in the image, OPTIONs are for `uv pip install`. Where LOWER has the
# environment already, it is added to. Needs root; run it in a mount and a pid namespace of its own.
set -euo pipefail
lower=$1 folder=$2 python=$3 bake=$4 env=$5
shift 5
root="$folder.root"
mkdir -p "$folder" "$folder.work" "$root"
mount -t overlay layer -o "lowerdir=$lower,upperdir=$folder,workdir=$folder.work" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs layer "$root/run"
mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
mkdir -p "$root/run/bake" "$root/run/uv-cache"
mount --rbind "$bake" "$root/run/bake"
mount --bind "$UV_CACHE_DIR" "$root/run/uv-cache"
if [ -n "${SSL_CERT_FILE:-}" ]; then
  cp -L "$SSL_CERT_FILE" "$root/run/certificates.pem"
  export SSL_CERT_FILE=/run/certificates.pem
fi
export UV_CACHE_DIR=/run/uv-cache UV_LINK_MODE=copy HOME=/root
uv() { chroot "$root" /run/bake/uv "$@"; }
[ -e "$root$env/pyvenv.cfg" ] || uv venv --quiet --python "$python" "$env"
uv pip install --quiet --compile-bytecode "$@" --python "$env/bin/python" \
  --find-links /run/bake -r /run/bake/requirements.txt
umount -R "$root"
rmdir "$root"
rm -rf "$folder.work"
