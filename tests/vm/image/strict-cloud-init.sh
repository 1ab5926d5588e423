#!/bin/bash
# strict-cloud-init.sh ROOT SUITE STRICT: puts the cloud-init of a newer suite under /opt/strict, to check with.
#
# Only unpacked: what boots the machine is the suite's own. Run it as
# `PYTHONPATH=/opt/strict/usr/lib/python3/dist-packages python3 -m cloudinit.cmd.main schema -c FILE`.
set -euo pipefail
root=$1 suite=$2 strict=$3
[ "$suite" = "$strict" ] && exit 0
lists="$root/etc/apt/sources.list.d/strict.list"
sed -n "s/^\(deb .*\) $suite main.*/\1 $strict main/p" "$root/etc/apt/sources.list" | head -1 >"$lists"
only=(-o Dir::Etc::SourceList=/etc/apt/sources.list.d/strict.list -o Dir::Etc::SourceParts=-)
chroot "$root" apt-get -qq "${only[@]}" update
(cd "$root/tmp" && chroot "$root" sh -c 'cd /tmp && apt-get -qq "$@" download cloud-init' _ "${only[@]}")
chroot "$root" sh -c 'mkdir -p /opt/strict && dpkg-deb -x /tmp/cloud-init_*.deb /opt/strict && rm /tmp/cloud-init_*.deb'
rm "$lists"
