#!/bin/sh
# Stands for shutdown, poweroff, halt, reboot and systemctl inside a sandbox instance.
verb=${0##*/}
minutes=0
cancel=
for word in "$@"; do
    case "$word" in
        +*) minutes=${word#+} ;;
        now) minutes=0 ;;
        -c) cancel=1 ;;
        -r | --reboot) verb=reboot ;;
        poweroff | halt | reboot) verb=$word ;;
    esac
done
[ "$verb" = shutdown ] && [ $# = 0 ] && minutes=1
pending=$SANDBOX_DIR/pending-shutdown

if [ "$verb" = systemctl ]; then
    echo "systemctl $*: there is no systemd in a sandbox instance" >&2
    exit 1
fi
[ "$verb" = reboot ] || verb=poweroff

if [ -f "$pending" ]; then
    kill -KILL "$(cat "$pending")" 2>/dev/null
    rm -f "$pending"
fi
[ -z "$cancel" ] || exit 0

off() {
    echo "$verb" > "$SANDBOX_DIR/power"
    kill -KILL "$SANDBOX_LIFELINE"
}

if [ "$minutes" = 0 ]; then
    off
else
    # Like the real one, it returns at once.
    (sleep $((minutes * 60)); off) </dev/null >/dev/null 2>&1 &
    echo $! > "$pending"
fi
