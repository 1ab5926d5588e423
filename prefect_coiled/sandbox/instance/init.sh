#!/bin/sh
# The first process of a sandbox instance.
#
# The machine is on as long as the process that reads its lifeline (a pipe on standard input) lives. The
# other end of the pipe is in the sandbox's server: when the server closes it, or dies in any way, the
# reader ends. `shutdown` inside the instance kills the reader. Then all gets SIGTERM, a grace, SIGKILL.
#
# Environment: SANDBOX_DIR (the instance's folder), SANDBOX_MARK (what marks its processes), SANDBOX_GRACE
# (seconds), SANDBOX_PIDNS (1 when this is the first process of a pid namespace), SANDBOX_PYTHON,
# SANDBOX_SWEEP (sweep.py), SANDBOX_DISK (MiB of a bare machine's disk, or nothing).

# A trap, not "ignore": what is ignored would be ignored by all children too.
trap : TERM HUP INT
exec 3<&0 </dev/null

# A small disk, in the mount namespace that goes with the pid namespace: it ends with the machine.
if [ "$SANDBOX_PIDNS" = 1 ] && [ -n "$SANDBOX_DISK" ]; then
    mkdir -p "$PREFECT_COILED_ROOT"
    mount -t tmpfs -o "size=${SANDBOX_DISK}m" disk "$PREFECT_COILED_ROOT"
fi

(trap '' TERM HUP INT; exec cat <&3 >/dev/null 2>&1) &
lifeline=$!

if [ -x "$SANDBOX_DIR/user-data" ]; then
    (
        exec 3<&-
        cd "$HOME" || exit 1
        PREFECT_COILED_SANDBOX_INSTANCE=$SANDBOX_MARK SANDBOX_LIFELINE=$lifeline
        export PREFECT_COILED_SANDBOX_INSTANCE SANDBOX_LIFELINE
        unset SANDBOX_MARK SANDBOX_GRACE SANDBOX_PYTHON SANDBOX_SWEEP SANDBOX_PIDNS PWD OLDPWD
        exec "$SANDBOX_DIR/user-data"
    ) &
    child=$!
fi

# What the shell itself says about ended processes does not belong on the console.
exec >/dev/null 2>&1

while kill -0 $lifeline 2>/dev/null; do wait $lifeline; done
exec 3<&-

if [ "$SANDBOX_PIDNS" = 1 ]; then everyone=-1; else everyone=0; fi
kill -s TERM -- $everyone 2>/dev/null
if [ -n "$child" ]; then
    (trap '' TERM; sleep "$SANDBOX_GRACE"; kill -KILL $child) 2>/dev/null &
    guard=$!
    while kill -0 $child 2>/dev/null; do wait $child; done
    kill -KILL $guard 2>/dev/null
    sleep 0.1
fi

# The end of a pid namespace's first process ends all others. Without one, they are found by their mark.
if [ "$SANDBOX_PIDNS" != 1 ]; then
    "$SANDBOX_PYTHON" "$SANDBOX_SWEEP" PREFECT_COILED_SANDBOX_INSTANCE "$SANDBOX_MARK"
    kill -KILL 0
fi
