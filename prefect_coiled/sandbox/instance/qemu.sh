#!/bin/sh
# The power of one instance that is a virtual machine: qemu.sh COMMAND..., which is QEMU's.
#
# First process of a pid namespace: whatever is started here goes with it. The machine is on as long as QEMU runs.
# The end of the lifeline (a pipe on standard input, whose other end is in the sandbox's server) is the power button
# of the machine; after the grace the plug is pulled.
#
# Environment: MACHINE_DIR (its folder), MACHINE_GRACE (seconds).

# A trap, not "ignore": what is ignored would be ignored by all children too.
trap : TERM HUP INT
exec 3<&0 </dev/null

# QEMU takes its commands from here. Open for both ways, so that nobody waits for the other end.
rm -f "$MACHINE_DIR/monitor"
mkfifo "$MACHINE_DIR/monitor"
exec 4<>"$MACHINE_DIR/monitor"

"$@" -monitor stdio <&4 >/dev/null 3<&- 4<&- &
machine=$!
(
    trap '' TERM HUP INT
    cat <&3 >/dev/null
    echo system_powerdown >&4
    sleep "$MACHINE_GRACE"
    kill -s KILL -- -1
) 2>/dev/null &
exec 3<&- 4<&-

code=
while [ -z "$code" ]; do
    wait $machine
    result=$?
    kill -s 0 $machine 2>/dev/null || code=$result
done
# A reboot from within is QEMU's own affair; it ends when the machine has switched its power off.
case $code in
    0) echo poweroff >"$MACHINE_DIR/power" ;;
    *) echo "QEMU ended with code $code" ;;
esac
exec >/dev/null 2>&1
kill -s KILL -- -1
