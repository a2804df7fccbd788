# What survives what (tests/vm/test_survival.py), with our Debian package and Debian's newest systemd: everything up
# to a kexec.
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
systemctl daemon-reload
memory_is_there
start_all
for kind in $KINDS; do on_memory $kind fill.py /srv/$kind/pattern; note started $kind; done
truncate -s 5000000 /srv/memfd/odd

before=$(main_pid dax); kill -KILL "$before"; wait_until 240 is_served_by_other dax "$before"; note killed dax
for kind in hugetlb dax; do
    before=$(main_pid $kind); wait_until 400 systemctl reload "$(unit $kind)"
    wait_until 240 is_served_by_other $kind "$before"; note replaced $kind
done
for kind in $KINDS; do systemctl stop "$(unit $kind)"; done
start_all
for kind in $KINDS; do note stopped $kind; done

for kind in hugetlb dax; do # by hand, with a holder
    options=(--size 16M --region $kind --name by-hand-$kind)
    [ $kind = hugetlb ] || options+=(--dax-dir /srv/pmem)
    mkdir /srv/by-hand-$kind
    guestmemfs mount /srv/by-hand-$kind "${options[@]}"
    on_memory $kind fill.py /srv/by-hand-$kind/pattern
    note by-hand $kind /srv/by-hand-$kind/pattern
    kill -KILL $(guestmemfs status by-hand-$kind --json | python3 -c 'import json, sys; s = json.load(sys.stdin); print(s["holder_pid"], s["daemon_pid"])')
    guestmemfs mount /srv/by-hand-$kind --name by-hand-$kind
    note holder-killed $kind /srv/by-hand-$kind/pattern
    guestmemfs umount by-hand-$kind
    guestmemfs mount /srv/by-hand-$kind --name by-hand-$kind
    note unmounted $kind /srv/by-hand-$kind/pattern
    guestmemfs umount by-hand-$kind
done
tried() { "$@" >/dev/null 2>&1 && echo ok || echo refused; }
guestmemfs liveupdate preserve memfd
before=$(main_pid memfd); kill -KILL "$before"; wait_until 240 is_served_by_other memfd "$before"
{ tried truncate -s 1M /srv/memfd/odd; tried guestmemfs thaw memfd; guestmemfs liveupdate preserve memfd --abort
  tried truncate -s 6M /srv/memfd/odd; tried truncate -s 5000000 /srv/memfd/odd; } >"$VM_OUT/tried"
guestmemfs pin /srv/memfd/pattern
guestmemfs status memfd --json >"$VM_OUT/status-1"
guestmemfs liveupdate preserve memfd --json >"$VM_OUT/preserved"
systemctl show -P Version >"$VM_OUT/version"
