# Installs packages from the distribution's own sources: install_packages.sh MIRROR NAME...
# MIRROR replaces the hosts of these sources, or is empty. Other sources of the base (CUDA's, say) are not asked, and the
# base's own files stay as they are. A failure ends with one line for the program that builds: `provisioner: CODE NAMES`.
set -eu
mirror=$1
shift

fail() {
    printf '\nprovisioner: %s\n' "$*"
    exit 1
}

own='https?://[^ ]+/(ubuntu|ubuntu-ports|debian|debian-security)/?( |$)'
sources=$(mktemp -d)
chmod 755 "$sources" # apt reads packages as another user
grep -rlE "$own" /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | while read -r file; do
    cp "$file" "$sources/"
done
if [ -n "$mirror" ]; then
    find "$sources" -type f -exec sed -E -i "s#https?://[^ /]+/(ubuntu|ubuntu-ports|debian|debian-security)/?( |\$)#$mirror/\1\2#" {} +
fi
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

ask() {
    tool=$1
    shift
    # A mirror that does not answer ends the build after seconds, and one that answers in part is no success.
    "$tool" -q -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$sources" -o Acquire::Retries=2 \
        -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 -o APT::Update::Error-Mode=any "$@"
}

install() {
    # What the base or an earlier layer has is not given up for a package.
    ask apt-get install -y --no-install-recommends --no-remove "$@"
}

# Libraries of a driver in an image hide those of the node, and then no GPU works.
driver_packages() {
    dpkg-query -W -f '${db:Status-Status} ${Package}\n' libcuda1 libnvidia-ml1 'libnvidia-compute-*' 'nvidia-driver*' \
        'nvidia-utils-*' 'nvidia-kernel-*' 2>/dev/null | sed -n 's/^installed //p' | tr '\n' ' '
}

# After a failed installation: which name cannot be installed, even alone? Or was it the mirror, or a package's script?
# A mirror that answers the second time is no failure.
explain_or_repeat() {
    bad=''
    for name; do
        install --simulate "$name" >/dev/null 2>&1 || bad="$bad $name"
    done
    if [ -n "$bad" ]; then
        for name in $bad; do
            install --simulate "$name" 2>&1 | tail -n 6 || true
        done
        fail "apt_package$bad"
    fi
    install --simulate "$@" >/dev/null 2>&1 || fail "apt_package $*"
    install --download-only "$@" >/dev/null 2>&1 || fail apt_mirror_failed
    install "$@" || fail "apt_package $*"
}

[ -n "$(ls "$sources")" ] || fail apt_no_sources
ask apt-get update || fail apt_mirror_failed
# apt takes a name that it does not know for a pattern, or for a wish to remove (NAME-).
unknown=''
for name; do
    ask apt-cache pkgnames "$name" | grep -qxF -- "$name" || unknown="$unknown $name"
done
[ -z "$unknown" ] || fail "apt_package$unknown"
before=$(driver_packages)
install "$@" || explain_or_repeat "$@"
driver=$(driver_packages)
[ "$driver" = "$before" ] || fail "apt_driver $driver"
for name; do
    case $name in
    locales) localedef -i zh_CN -c -f UTF-8 -A /usr/share/locale/locale.alias zh_CN.UTF-8 2>/dev/null ||
        localedef -i zh_CN -c -f UTF-8 zh_CN.UTF-8 ;;
    esac
done
ask apt-get clean

# The versions of what was asked for. A name that only others provide has none: it would not be the same one tomorrow.
mkdir -p /opt/provisioner
for name; do
    version=$(dpkg-query -W -f '${db:Status-Status} ${Version}\n' "$name" 2>/dev/null | sed -n 's/^installed //p' | head -n 1)
    [ -n "$version" ] || fail "apt_package $name"
    printf '%s %s\n' "$name" "$version" >>/opt/provisioner/packages
done

# A host key in an image would be the same on every node; a seat brings its own.
rm -rf "$sources" /etc/ssh/ssh_host_* /var/lib/apt/lists/*
