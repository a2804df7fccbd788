# Before a soft-reboot (tests/vm/test_soft_reboot.py): a unit of each region kind, each with a file that is filled.
cd /
. "$VM_IN/steps.sh"

install_all
for kind in $KINDS; do systemctl enable --quiet "$(unit $kind)"; done
start_filled
{ cat /proc/sys/kernel/random/boot_id; systemctl show -P ActiveEnterTimestampMonotonic sysinit.target; } >"$VM_OUT/userspace-1"
