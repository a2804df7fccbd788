# Runs under systemd 252 as PID 1 (tests/vm/test_systemd.py), with our own Debian package installed into it.
# Each step leaves $VM_OUT/STEP.
cd /
dpkg -i --no-triggers "$VM_IN/package.deb" >"$VM_OUT/install" 2>&1 || { cat "$VM_OUT/install"; exit 1; }
mkdir -p /etc/systemd/system/guestmemfs@.service.d
cat >/etc/guestmemfs/vm1.toml <<TOML
mountpoint = "/srv/guests"
size = "64M"
TOML
printf '[Service]\nWatchdogSec=25\nTimeoutStartSec=400\nTimeoutStopSec=400\n' \
    >/etc/systemd/system/guestmemfs@.service.d/test.conf
mkdir -p /var/lib/guestmemfs
guestmemfs check-config vm1 >"$VM_OUT/check-config"
echo '{"boot_id": "another", "kind": "tmpfs", "size_bytes": 67108864}' >/var/lib/guestmemfs/vm1.json
systemctl daemon-reload
unit=guestmemfs@vm1.service mountpoint=/srv/guests
. "$VM_IN/steps.sh"

systemctl start $unit || { trouble; exit 1; }
systemctl show -P StatusText $unit
start_guest /srv/guests/ram
step started

before=$(main_pid); systemctl restart $unit; step restarted; [ "$(main_pid)" != "$before" ]
# Emulated, on a busy host, a new daemon may not be warm in time; then the old one goes on, by design.
before=$(main_pid); wait_until 400 systemctl reload $unit; wait_until 120 is_served_by_other "$before"; step reloaded
before=$(main_pid); kill -KILL "$before"; wait_until 240 is_served_by_other "$before"; step killed-successor
before=$(main_pid); kill -STOP "$before"; wait_until 240 is_served_by_other "$before"; step hung
echo nonsense >>/etc/guestmemfs/vm1.toml
before=$(main_pid); kill -KILL "$before"; wait_until 240 is_served_by_other "$before"; step broken-config
sed -i /nonsense/d /etc/guestmemfs/vm1.toml
upgrade_replaces() { dpkg -i --no-triggers "$VM_IN/package.deb" >>"$VM_OUT/upgrade" 2>&1 && is_served_by_other "$before"; }
before=$(main_pid); wait_until 400 upgrade_replaces; step upgraded
guestmemfs status vm1 >"$VM_OUT/status"
systemctl show -P NRestarts $unit >"$VM_OUT/restarts"
grep -E "^(Cap|Seccomp|NoNewPrivs)" "/proc/$(main_pid)/status" >"$VM_OUT/privileges"

systemctl stop $unit
systemctl is-active $unit >"$VM_OUT/stopped-busy" || true
grep -c ' /srv/guests ' /proc/self/mountinfo >>"$VM_OUT/stopped-busy" || true
read -r stores calls < <(python3 -c 'import json; n = json.load(open("/run/notes")); print(n["stores"] + 2, n["calls"] + 2)')
wait_until 120 moved_on "$stores" "$calls" # calls fail, but nobody waits
cp /run/notes "$VM_OUT/notes-after-busy-stop"
kill %1
systemctl start $unit || { trouble; exit 1; }
od -A d -t u8 -j 1048576 -N 8 /run/guestmemfs/vm1/region/data/* >"$VM_OUT/kept-bytes"
ls -l /srv/guests >"$VM_OUT/files-after-start"

systemctl stop $unit
{ systemctl is-active $unit || true; grep -c ' /srv/guests ' /proc/self/mountinfo || true; guestmemfs list; } >"$VM_OUT/stopped-idle" 2>&1
systemctl start $unit
ls -l /srv/guests >"$VM_OUT/files-after-second-start"

systemctl reload --no-block $unit
systemctl stop $unit # skips ExecStop=
{ systemctl is-active $unit || true; grep -c ' /srv/guests ' /proc/self/mountinfo || true; } >"$VM_OUT/stopped-reloading"
systemctl start $unit
umount /srv/guests
wait_until 120 is_inactive
sleep 2
is_inactive # and stays so
journalctl -b --no-pager -u $unit -o json >"$VM_OUT/journal"
systemctl show -P Result $unit >"$VM_OUT/result"

# -- the package's own life
mkdir /srv/other
mount -t guestmemfs other /srv/other -o size=16M
{ dpkg -r --no-triggers guestmemfs-fuse && echo removed; } >"$VM_OUT/remove-while-served" 2>&1 || true
umount /srv/other
is_gone() { ! guestmemfs list --json | grep -q '"serving"'; }
wait_until 120 is_gone
guestmemfs destroy other --yes
guestmemfs destroy vm1 --yes
dpkg --purge --no-triggers guestmemfs-fuse >"$VM_OUT/purge" 2>&1 || { cat "$VM_OUT/purge"; exit 1; }
{ ls -d /etc/guestmemfs /var/lib/guestmemfs /run/guestmemfs /usr/bin/guestmemfs /usr/sbin/mount.guestmemfs \
    /usr/lib/guestmemfs-fuse /usr/share/doc/guestmemfs-fuse /usr/lib/systemd/system/guestmemfs@.service 2>/dev/null || true
  ps -e -o args | grep '[g]uestmemfs_fuse' || true; grep guestmemfs /proc/self/mountinfo || true; } >"$VM_OUT/left"
