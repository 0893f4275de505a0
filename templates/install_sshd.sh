# Installs sshd from the distribution's own sources. $1: a mirror that replaces their hosts, or nothing.
# Other sources of the base (CUDA's, say) are not asked, and the base's own files stay as they are.
set -eu

own='https?://[^ ]+/(ubuntu|ubuntu-ports|debian|debian-security)/?( |$)'
sources=$(mktemp -d)
grep -rlE "$own" /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | while read -r file; do
    cp "$file" "$sources/"
done
if [ -n "$1" ]; then
    find "$sources" -type f -exec sed -E -i "s#https?://[^ /]+/(ubuntu|ubuntu-ports|debian|debian-security)/?( |\$)#$1/\1\2#" {} +
fi

apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$sources" "$@"
}
apt update
apt install -y --no-install-recommends openssh-server
apt clean

# A host key in an image would be the same on every node; a seat brings its own.
rm -rf "$sources" /etc/ssh/ssh_host_* /var/lib/apt/lists/*
