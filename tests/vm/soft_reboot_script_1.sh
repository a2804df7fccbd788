# Before a soft-reboot (tests/vm/test_soft_reboot.py): a unit of each region kind, each with a file that is filled.
cd /
. "$VM_IN/steps.sh"

for package in "$VM_IN"/systemd-*.deb "$VM_IN"/libsystemd*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x -C / --keep-directory-symlink --exclude=./usr/share/doc
done
systemctl daemon-reexec
dpkg -i --no-triggers "$VM_IN/package.deb" >"$VM_OUT/install" 2>&1 || { cat "$VM_OUT/install"; exit 1; }
mkfs.ext4 -q -b 4096 -O bigalloc -C 2M -m 0 /dev/pmem0
mkdir -p /etc/systemd/system/guestmemfs@.service.d
printf '[Service]\nTimeoutStartSec=400\nWatchdogSec=0\n' >/etc/systemd/system/guestmemfs@.service.d/emulated.conf
for kind in $KINDS; do
    printf 'mountpoint = "/srv/%s"\nsize = "48M"\nregion = "%s"\n' $kind $kind >/etc/guestmemfs/$kind.toml
done
printf 'dax-dir = "/srv/pmem"\n' >>/etc/guestmemfs/dax.toml
for kind in $KINDS; do systemctl enable --quiet "$(unit $kind)"; done
systemctl daemon-reload
memory_is_there
start_all
for kind in $KINDS; do on_memory $kind fill.py /srv/$kind/pattern; note started $kind; done
{ cat /proc/sys/kernel/random/boot_id; systemctl show -P ActiveEnterTimestampMonotonic sysinit.target; } >"$VM_OUT/userspace-1"
