# Sourced: apt with its package lists brought up to date. apt waits for dpkg's lock if it is told to, for the lock
# of the lists never, and when a host has just been started its own apt-daily.service has that for a while.

refresh_lists() { # options of apt-get...; fails where a source does not answer
    local said status end=$((SECONDS + 300))
    while :; do
        status=0
        said=$(LC_ALL=C apt-get "$@" update 2>&1) || status=$?
        [[ $status != 0 && $said == *"Could not get lock"* && $SECONDS -lt $end ]] || break
        sleep 2
    done
    [[ -z $said ]] || printf '%s\n' "$said" >&2
    return "$status"
}
