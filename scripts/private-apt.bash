# Sourced: apt with sources and package lists of its own, so that a suite can be used that this machine does not
# have in its sources. The caller sets $work, a directory outside the tree, and has a function `die`.

KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

debian_mirror() { # the one this machine uses, whatever it is
    apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' |
        awk -F'|' '$1 == "Debian" && $2 == "Debian" { print $3; exit }'
}

private_apt() { # apt tool and arguments, on our sources and our package lists
    APT_CONFIG=$work/apt/apt.conf "$@"
}

set_up_apt() { # suite
    local mirror
    mirror=$(debian_mirror)
    [[ -n $mirror ]] || die "this machine's apt has no Debian archive to take the mirror from"
    mkdir -p "$work"/apt/{state/lists/partial,cache/archives/partial}
    echo "deb [signed-by=$KEYRING] $mirror $1 main" >"$work/apt/sources.list"
    # The system's apt.conf.d stays in force: a proxy set there is needed here too.
    cat >"$work/apt/apt.conf" <<END
Dir::Etc::SourceList "$work/apt/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State "$work/apt/state";
Dir::State::status "/dev/null";
Dir::Cache "$work/apt/cache";
Acquire::Languages "none";
APT::Sandbox::User "root";
END
    private_apt apt-get -q=2 update >&2
}
