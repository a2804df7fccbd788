# After the kexec (tests/vm/test_survival.py): systemd has taken along what it could.
cd /
. "$VM_IN/steps.sh"
systemctl show -P NFileDescriptorStore "$(unit memfd)" >"$VM_OUT/fds-carried"
guestmemfs list --json >"$VM_OUT/list-2"
memory_is_there
start_all
for kind in memfd dax; do note kexec $kind; done
stat -c '%n %s' /srv/*/* >"$VM_OUT/files-2"
rm /srv/memfd/pattern 2>/dev/null && echo removed >"$VM_OUT/pin" || echo pinned >"$VM_OUT/pin"
guestmemfs status memfd --json >"$VM_OUT/status-2"
guestmemfs fsck memfd --json >"$VM_OUT/fsck-2" || true
{ guestmemfs liveupdate preserve memfd && guestmemfs liveupdate preserve memfd --abort; } >"$VM_OUT/again"
before=$(main_pid memfd); kill -KILL "$before"; wait_until 240 is_served_by_other memfd "$before"
systemctl stop "$(unit memfd)"; systemctl start "$(unit memfd)" || trouble
note kexec-and-stopped memfd
for kind in $KINDS; do journalctl -b --no-pager -o cat -u "$(unit $kind)" >"$VM_OUT/journal-$kind"; done
