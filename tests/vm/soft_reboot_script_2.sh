# After the soft-reboot (tests/vm/test_soft_reboot.py): the same kernel, everything else started anew.
cd /
. "$VM_IN/steps.sh"

{ cat /proc/sys/kernel/random/boot_id; systemctl show -P ActiveEnterTimestampMonotonic sysinit.target; } >"$VM_OUT/userspace-2"
memory_is_there
start_all
for kind in $KINDS; do note soft-rebooted $kind; done
for kind in $KINDS; do guestmemfs fsck $kind --json >"$VM_OUT/fsck-$kind" || true; done
