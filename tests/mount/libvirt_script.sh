# A real libvirtd whose domain has its RAM on our mount (tests/mount/test_libvirt.py). Runs in a mount namespace
# of its own: libvirt finds its usual directories there, empty, and nothing of this host's is touched.
# QEMU runs as libvirt's own unprivileged user. Each step leaves $OUT/STEP.
set -eu
mkdir -p "$DIR/etc" "$OUT"
cp -a /etc/libvirt/. "$DIR/etc/"
user=libvirt-qemu
{ grep -v "^$user:" /etc/passwd; echo "$user:x:64055:64055::/:/usr/sbin/nologin"; } >"$DIR/passwd"
{ grep -v "^$user:" /etc/group; echo "$user:x:64055:"; grep -q ^kvm: /etc/group || echo kvm:x:64056:; } >"$DIR/group"
mount --bind "$DIR/passwd" /etc/passwd
mount --bind "$DIR/group" /etc/group
mount --bind "$DIR/etc" /etc/libvirt
for place in /run/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt /mnt; do
    mkdir -p $place
    mount -t tmpfs -o mode=755 private $place
done
mkdir -p /var/lib/libvirt/qemu /var/log/libvirt/qemu /mnt/guests /mnt/boot
chown $user:kvm /var/lib/libvirt/qemu
cp "$KERNEL" /mnt/boot/kernel
cp "$INITRAMFS" /mnt/boot/initramfs

cat >/etc/libvirt/qemu.conf <<CONF
memory_backing_dir = "/mnt/guests"
user = "$user"
group = "kvm"
# What this test's surroundings do not have, nothing to do with us:
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
security_driver = "none"
CONF
printf 'auth_unix_rw = "none"\nauth_unix_ro = "none"\n' >/etc/libvirt/libvirtd.conf

domain() { # name
    cat <<XML
<domain type='qemu'>
  <name>$1</name>
  <memory unit='MiB'>256</memory>
  <vcpu>1</vcpu>
  <memoryBacking>
    <source type='file'/>
    <access mode='shared'/>
  </memoryBacking>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>/mnt/boot/kernel</kernel>
    <initrd>/mnt/boot/initramfs</initrd>
    <cmdline>console=ttyS0 quiet panic=-1 no_timer_check pattern_mib=8</cmdline>
  </os>
  <cpu mode='maximum'/>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <serial type='file'><source path='/mnt/$1.log'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>
XML
}
wait_until() { # seconds command...
    local end=$((SECONDS + $1)); shift
    until "$@"; do [ $SECONDS -lt $end ] || { echo "never: $*" >&2; return 1; }; sleep 0.2; done
}
virsh() { command virsh --quiet --connect qemu:///system "$@"; }
count() { tr -d '\r' <"/mnt/$1.log" | sed -n 's/^count \([0-9]*\)$/\1/p' | tail -n 1; }
counts_beyond() { local now; now=$(count "$1"); [ "${now:-0}" -gt "$2" ]; }
ram() { find /mnt/guests -name '*.ram' -printf '%U %m %s %p\n'; }

libvirtd=
finish() {
    virsh destroy first >/dev/null 2>&1 || true
    virsh destroy second >/dev/null 2>&1 || true
    [ -z "$libvirtd" ] || { kill "$libvirtd" && wait "$libvirtd"; } 2>/dev/null || true
    guestmemfs umount guests >/dev/null 2>&1 || true
    guestmemfs destroy guests --yes --force >/dev/null 2>&1 || true
}
trap finish EXIT

guestmemfs mount /mnt/guests --size 600M --name guests
libvirtd >"$OUT/libvirtd.log" 2>&1 &
libvirtd=$!
answers() { virsh version >/dev/null 2>&1; }
wait_until 60 answers

domain first >"$DIR/first.xml"
virsh create "$DIR/first.xml"
wait_until 120 counts_beyond first 5
ram >"$OUT/ram"
guestmemfs status guests --json >"$OUT/status"

daemon=$(guestmemfs status guests --json | python3 -c 'import json,sys; print(json.load(sys.stdin)["daemon_pid"])')
kill -KILL "$daemon"
wait_until 60 counts_beyond first $(($(count first) + 20))
virsh domstate first >"$OUT/state-after-kill"
guestmemfs status guests --json >"$OUT/status-after-kill"
grep -c broken /mnt/first.log >"$OUT/broken" || true

file=$(find /mnt/guests -name '*.ram')
guestmemfs pin "$file"
virsh destroy first
ram >"$OUT/ram-pinned"
guestmemfs unpin "$file"
rm -r "$(dirname "$file")"

domain second >"$DIR/second.xml"
virsh create "$DIR/second.xml"
ram >"$OUT/ram-second"
virsh destroy second
ram >"$OUT/ram-not-pinned"
