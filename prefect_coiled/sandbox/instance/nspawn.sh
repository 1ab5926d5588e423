#!/bin/sh
# The hardware of one instance that is a whole Linux machine: its disk, its cable and its power.
#
# First process of a pid namespace, in a mount namespace of its own and the network namespace with its card, ens5:
# whatever is mounted or started here goes with it. The machine is on as long as systemd-nspawn runs. The end of the lifeline (a pipe on standard
# input, whose other end is in the sandbox's server) is the power button; after the grace the plug is pulled.
#
# Environment: MACHINE_DIR (its folder), MACHINE_LAYERS (root file systems, the upper first, as overlayfs writes
# it), MACHINE_NAME, MACHINE_UUID, MACHINE_GRACE (seconds).

# A trap, not "ignore": what is ignored would be ignored by all children too.
trap : TERM HUP INT
exec 3<&0 </dev/null
set -e

# Locks and notes of systemd-nspawn, which would outlive it on the host.
mount -t tmpfs -o mode=755 machine /run
# systemd-nspawn looks for the network card in sysfs, which shows the namespace that it was mounted in.
mount -t sysfs -o ro machine /sys
mount -t cgroup2 machine /sys/fs/cgroup
cgroup=/sys/fs/cgroup/$MACHINE_NAME
mkdir -p "$cgroup"
echo 0 >"$cgroup/cgroup.procs"

root=$MACHINE_DIR/root
mkdir -p "$root" "$MACHINE_DIR/disk" "$MACHINE_DIR/work"
mount -t overlay machine \
    -o "lowerdir=$MACHINE_LAYERS,upperdir=$MACHINE_DIR/disk,workdir=$MACHINE_DIR/work" "$root"

set +e

systemd-nspawn --quiet --register=no --keep-unit --boot --directory="$root" --machine="$MACHINE_NAME" \
    --uuid="$MACHINE_UUID" --network-interface=ens5 --console=read-only \
    --kill-signal=SIGRTMIN+4 --link-journal=no --resolv-conf=off --timezone=off 3<&- &
machine=$!
(
    trap '' TERM HUP INT
    cat <&3 >/dev/null
    kill -s TERM $machine
    sleep "$MACHINE_GRACE"
    kill -s KILL -- -1
) 2>/dev/null &
exec 3<&-

code=
while [ -z "$code" ]; do
    wait $machine
    result=$?
    kill -s 0 $machine 2>/dev/null || code=$result
done
case $code in
    0) echo poweroff >"$MACHINE_DIR/power" ;;
    133) echo reboot >"$MACHINE_DIR/power" ;;
    *) echo "systemd-nspawn ended with code $code" ;;
esac
exec >/dev/null 2>&1
kill -s KILL -- -1
echo 0 >/sys/fs/cgroup/cgroup.procs
# What was killed takes a moment to be gone.
tries=50
while [ -d "$cgroup" ] && [ $tries -gt 0 ]; do
    find "$cgroup" -depth -type d -exec rmdir {} \;
    tries=$((tries - 1))
    sleep 0.1
done
