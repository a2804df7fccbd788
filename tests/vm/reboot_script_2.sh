# After the reboot (tests/vm/test_systemd_reboot.py): nobody has started anything but this boot itself.
cd /
mountpoint=/srv/guests unit=guestmemfs@vm1.service
. "$VM_IN/steps.sh"
systemctl --version | head -n 1 >"$VM_OUT/version-2"
is_active() { systemctl is-active --quiet guestmemfs@vm1 && systemctl is-active --quiet guestmemfs@mem1; }
wait_until 240 is_active
{ ls -A /srv/guests; ls -A /srv/mem; } >"$VM_OUT/files-2"
guestmemfs list --json >"$VM_OUT/list-2"
guestmemfs list >"$VM_OUT/list-text-2" 2>&1
guestmemfs status vm1 --json >"$VM_OUT/status-2"
guestmemfs status vm1 >"$VM_OUT/status-text-2"
start_guest /srv/guests/ram
step serves-again
kill %1
journalctl -b --no-pager -u 'guestmemfs@*' -o json >"$VM_OUT/journal-2"
systemctl --failed --no-legend >"$VM_OUT/failed-2"

# -- what systemd 254 can: the package chooses the line for it, and the memory of a stopped memfd unit stays
dpkg -i --no-triggers "$VM_IN/package.deb" >"$VM_OUT/install-2" 2>&1 || { cat "$VM_OUT/install-2"; exit 1; }
systemctl daemon-reload
ls /usr/lib/systemd/system/guestmemfs@.service.d >"$VM_OUT/drop-ins" 2>/dev/null || true
systemd-analyze verify --man=no /usr/lib/systemd/system/guestmemfs@.service >"$VM_OUT/verify" 2>&1 || true
unit=guestmemfs@mem1.service mountpoint=/srv/mem
systemctl show -P FileDescriptorStorePreserve $unit >"$VM_OUT/preserve" || true
[ "$(cat "$VM_OUT/preserve")" = yes ] || exit 0
systemctl restart $unit || { trouble; exit 1; }
start_guest /srv/mem/ram
step preserved-started
systemctl stop $unit # under the guest, who keeps what is mapped
wait_until 120 is_inactive
stores=$(python3 -c 'import json; print(json.load(open("/run/notes"))["stores"] + 2)')
wait_until 120 moved_on "$stores" 0
kill %1
wait_until 60 sh -c '! kill -0 %1' || true
guestmemfs list --json >"$VM_OUT/preserved-list"
guestmemfs status mem1 >"$VM_OUT/preserved-status"
fds >"$VM_OUT/preserved-fds"
{ guestmemfs mount /srv/mem --name mem1 || echo "status $?"; } >"$VM_OUT/preserved-mount" 2>&1
systemctl start $unit || { trouble; exit 1; }
python3 - >"$VM_OUT/preserved-bytes" <<PY
import mmap, os
fd = os.open("/srv/mem/ram", os.O_RDWR)
memory = mmap.mmap(fd, 16 << 20)
print(all(memory[at : at + 8] == at.to_bytes(8, "little") for at in range(1 << 20, 16 << 20, 1 << 20)))
PY
guestmemfs destroy mem1 --yes >"$VM_OUT/preserved-destroy" 2>&1
{ fds; systemctl is-active $unit || true; guestmemfs list --json; } >"$VM_OUT/preserved-destroyed"
