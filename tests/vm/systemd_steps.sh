# Sourced by the scripts that run under systemd as PID 1: waiting, and notes of what a step left.
# The caller sets $unit (guestmemfs@NAME.service) and $mountpoint; the guest (guestlike.py) notes in /run/notes.

wait_until() { # seconds command...
    local end=$((SECONDS + $1)); shift
    until "$@"; do [ $SECONDS -lt $end ] || { echo "never: $*"; trouble; return 1; }; sleep 0.1; done
}
trouble() { systemctl status $unit --no-pager -l || true; journalctl -b --no-pager -u $unit | tail -n 60; cat /proc/self/mountinfo | grep guestmemfs; }
main_pid() { systemctl show -P MainPID $unit; }
fds() { systemctl show -P NFileDescriptorStore $unit; }
is_served_by_other() { [ "$(systemctl is-active $unit)" = active ] && [ "$(main_pid)" != "$1" ] && [ "$(main_pid)" != 0 ]; }
is_inactive() { [ "$(systemctl is-active $unit)" = inactive ]; }
start_guest() { # file: stores into it from now on; the caller kills %1
    rm -f /run/notes
    python3 -E -S "$VM_IN/guestlike.py" "$1" /run/notes 2>/run/guest-errors &
    wait_until 120 test -s /run/notes
}
moved_on() { # since a number of stores, and of calls
    python3 - "$1" "$2" <<PY
import json, sys
now = json.load(open("/run/notes"))
sys.exit(not (now["stores"] > int(sys.argv[1]) and now["calls"] > int(sys.argv[2])))
PY
}
step() { # name: the guest must have gone on since now
    local stores calls
    read -r stores calls < <(python3 -c 'import json; n = json.load(open("/run/notes")); print(n["stores"] + 2, n["calls"] + 2)')
    wait_until 120 moved_on "$stores" "$calls"
    { printf '{"main_pid": %s, "fds": %s, "mounts": %s, "guest": ' "$(main_pid)" "$(fds)" "$(grep -c " $mountpoint " /proc/self/mountinfo || true)"
      cat /run/notes; echo '}'; } >"$VM_OUT/$1"
    echo "$(date +%T) $1 $(cat "$VM_OUT/$1")"
}
