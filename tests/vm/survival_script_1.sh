# What survives what (tests/vm/test_survival.py), with our Debian package and Debian's newest systemd: everything up
# to a kexec.
cd /
. "$VM_IN/steps.sh"

install_all
start_filled
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
