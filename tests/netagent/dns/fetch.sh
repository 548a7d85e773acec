#!/bin/sh
# Unpack a Debian package, and what it needs and this machine has not, into a folder: resolver managers are never installed,
# they would take over.
set -eu
package=$1 target=$2
[ ! -d "$target" ] || exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
cd "$work"
fetch() {
    # A simulation: nothing is installed.
    needed=$(apt-get install -s --no-install-recommends "$package" | sed -n 's/^Inst \([^ ]*\) .*/\1/p')
    printf '%s\n' "$package" "$needed" | sort -u | xargs apt-get download -qq
}
fetch 2>/dev/null || { apt-get update -qq && fetch; }
for archive in *.deb; do
    dpkg-deb -x "$archive" unpacked
done
mkdir -p "$(dirname "$target")"
mv unpacked "$target"
