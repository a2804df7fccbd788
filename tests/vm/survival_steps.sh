# Sourced by survival_script_*.sh and soft_reboot_script_*.sh (tests/vm/four_units.py): a unit of each region kind.
KINDS="tmpfs memfd hugetlb dax"
unit() { echo "guestmemfs@$1.service"; }
main_pid() { systemctl show -P MainPID "$(unit "$1")"; }
trouble() { for kind in $KINDS; do systemctl status --no-pager -l "$(unit $kind)"; journalctl -b --no-pager -n 30 -u "$(unit $kind)"; done; return 1; }
wait_until() { # seconds command...
    local end=$((SECONDS + $1)); shift
    until "$@"; do [ $SECONDS -lt $end ] || { echo "never: $*"; trouble; return 1; }; sleep 0.2; done
}
is_served_by_other() { # kind pid
    [ "$(systemctl is-active "$(unit "$1")")" = active ] && [ "$(main_pid "$1")" != "$2" ] && [ "$(main_pid "$1")" != 0 ]
}
memory_is_there() {
    echo 72 >/proc/sys/vm/nr_hugepages
    mkdir -p /srv/pmem
    mountpoint -q /srv/pmem || mount -o dax=always /dev/pmem0 /srv/pmem
}
start_all() { # in parallel: they are emulated
    local jobs=() job
    for kind in $KINDS; do systemctl start "$(unit $kind)" & jobs+=($!); done
    for job in "${jobs[@]}"; do wait "$job" || trouble; done
}
on_memory() { # kind program file: mmap of hugetlb files needs the launcher
    case $1 in hugetlb*) guestmemfs run -- python3 -E -S "$VM_IN/$2" "$3" ;; *) python3 -E -S "$VM_IN/$2" "$3" ;; esac
}
note() { # step kind [file]: the checksum of its file
    on_memory "$2" sum.py "${3:-/srv/$2/pattern}" >"$VM_OUT/$1-$2" || trouble
    echo "$(date +%T) $1 $2"
}
install_all() { # the systemd that was brought along, our package, and a configuration for each kind
    local package kind
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
}
start_filled() { # all units for the first time, each with a file that is filled
    local kind
    systemctl daemon-reload
    memory_is_there
    start_all
    for kind in $KINDS; do on_memory $kind fill.py /srv/$kind/pattern; note started $kind; done
}
