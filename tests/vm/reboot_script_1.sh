# Before the reboot (tests/vm/test_systemd_reboot.py): enabled units with files, a memfd region as a unit, and a
# unit that is only started. Then, as after an upgrade of the distribution, a newer systemd is there for the next boot.
cd /
dpkg -i --no-triggers "$VM_IN/package.deb" >"$VM_OUT/install" 2>&1 || { cat "$VM_OUT/install"; exit 1; }
printf 'mountpoint = "/srv/guests"\nsize = "64M"\n' >/etc/guestmemfs/vm1.toml
printf 'mountpoint = "/srv/mem"\nsize = "64M"\nregion = "memfd"\n' >/etc/guestmemfs/mem1.toml
printf 'mountpoint = "/srv/idle"\nsize = "16M"\n' >/etc/guestmemfs/idle.toml
# The next boot goes to multi-user.target, but without what this host happens to have enabled.
mkdir -p /etc/systemd/system/vm-test.target.d
printf '[Unit]\nWants=multi-user.target\n' >/etc/systemd/system/vm-test.target.d/boot.conf
for wanted in /etc/systemd/system/multi-user.target.wants/*; do rm "$wanted"; done
systemctl mask --quiet getty.target remote-fs.target
systemctl daemon-reload
mountpoint=/srv/guests unit=guestmemfs@vm1.service
. "$VM_IN/steps.sh"

systemctl enable --now guestmemfs@vm1 guestmemfs@mem1 >"$VM_OUT/enable" 2>&1 || { trouble; exit 1; }
systemctl start guestmemfs@idle || { unit=guestmemfs@idle.service; trouble; exit 1; }
truncate -s 16M /srv/guests/ram /srv/idle/ram
guestmemfs pin /srv/guests/ram

# -- a line in fstab, which systemd makes a unit of: started, resized, stopped and started like any other
echo 'tab /srv/tab guestmemfs size=16M,region=memfd,nofail 0 0' >>/etc/fstab
systemctl set-environment GUESTMEMFS_PATIENCE=10
systemctl daemon-reload
tab() { # what it looks like, and what the first bytes of its file are, after storing others if there are any
    python3 - "$@" <<PY
import mmap, os, sys
fd = os.open("/srv/tab/ram", os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 2 << 20)
memory = mmap.mmap(fd, 2 << 20)
if sys.argv[1:]:
    memory[:5] = sys.argv[1].encode()
size = os.statvfs("/srv/tab")
print(memory[:5].decode(), size.f_blocks * size.f_frsize >> 20)
PY
}
unit=srv-tab.mount
{ systemctl start srv-tab.mount || { trouble; exit 1; }
  tab guest; mount -o remount,size=32M /srv/tab; tab
  sed -i '/^tab /s/16M/32M/' /etc/fstab; systemctl daemon-reload # another size than what is there is refused
  systemctl stop srv-tab.mount; systemctl is-active srv-tab.mount || true
  systemctl start srv-tab.mount || { trouble; exit 1; }
  tab; umount /srv/tab; mount /srv/tab; tab; } >"$VM_OUT/fstab"
umount /srv/tab
guestmemfs destroy tab --yes
sed -i '/^tab /d' /etc/fstab

unit=guestmemfs@mem1.service mountpoint=/srv/mem
start_guest /srv/mem/ram
step memfd-started
before=$(main_pid); systemctl restart $unit; wait_until 240 is_served_by_other "$before"; step memfd-restarted
before=$(main_pid); kill -KILL "$before"; wait_until 240 is_served_by_other "$before"; step memfd-killed
kill %1
if [ "$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')" -lt 254 ]; then
    systemctl stop $unit
    wait_until 120 is_inactive
    fds >"$VM_OUT/memfd-stopped-fds"
    guestmemfs list --json >"$VM_OUT/memfd-stopped-list"
    systemctl start $unit || { trouble; exit 1; }
    ls -A /srv/mem >"$VM_OUT/memfd-files-after-stop"
    guestmemfs status mem1 --json >"$VM_OUT/memfd-status-after-stop"
fi
truncate -s 8M /srv/mem/ram2
journalctl -b --no-pager -o json >"$VM_OUT/journal-1"
for package in "$VM_IN"/systemd-*.deb "$VM_IN"/libsystemd*.deb; do
    [ ! -e "$package" ] || dpkg-deb --fsys-tarfile "$package" | tar -x -C / --keep-directory-symlink --exclude=./usr/share/doc
done
