#!/bin/bash
# recipe.sh SUITE FOLDER: makes the root file system of a bare machine, as the user data expects it.
#
# It stands for Amazon Linux 2023 in what a machine of a cluster touches: systemd, cloud-init with the Ec2
# datasource alone, python3 with venv, certificates; the AWS command line is a layer of its own. Debian, because its packages can be
# had wherever the tests run; bookworm has the same systemd (252) and nearly the same cloud-init as Amazon's.
#
# Needs root and mmdebstrap. PREFECT_COILED_VM_MIRROR names a mirror where mmdebstrap's own default will not do.
set -euo pipefail
suite=$1 root=$2
here=$(cd "$(dirname "$0")" && pwd)
# The newest cloud-init there is, to look at user data with: older ones accept misspelt keys.
strict=trixie

packages=(
  systemd systemd-sysv dbus udev procps iproute2
  cloud-init isc-dhcp-client
  python3 python3-venv ca-certificates
)
mmdebstrap --quiet --mode=root --variant=minbase --format=directory \
  --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/doc/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' \
  --aptopt='Apt::Install-Recommends "false"' \
  --aptopt='Acquire::Languages "none"' \
  --include="$(IFS=,; echo "${packages[*]}")" \
  --customize-hook="$here/strict-cloud-init.sh \"\$1\" $suite $strict" \
  "$suite" "$root" ${PREFECT_COILED_VM_MIRROR:+"$PREFECT_COILED_VM_MIRROR"}

cp "$here/90_ec2.cfg" "$root/etc/cloud/cloud.cfg.d/90_ec2.cfg"

# A container has no SMBIOS: who the machine is comes from its machine id, and cloud-init may ask.
install -m 755 "$here/dmidecode.sh" "$root/usr/sbin/dmidecode"
dmi="$root/usr/lib/python3/dist-packages/cloudinit/dmi.py"
grep -q '^    if is_container():$' "$dmi"
sed -i 's/^    if is_container():$/    if False:  # changed: a container that stands for a virtual machine/' "$dmi"
rm -rf "$root/usr/lib/python3/dist-packages/cloudinit/__pycache__/"dmi.*

# As an AMI is: no identity yet, the network by DHCP, the resolver of the VPC.
: >"$root/etc/machine-id"
echo "127.0.0.1 localhost" >"$root/etc/hosts"
echo "nameserver 169.254.169.253" >"$root/etc/resolv.conf"
rm -f "$root/etc/hostname"
chroot "$root" systemctl --quiet enable systemd-networkd
chroot "$root" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
  e2scrub_all.timer fstrim.timer console-getty.service
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/i18n/* "$root"/var/log/*.log
