#!/bin/sh
# Unpack a Debian package into a folder, beside the machine: resolver managers are never installed, they would take over.
set -eu
package=$1 target=$2
[ ! -d "$target" ] || exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
cd "$work"
apt-get download -qq "$package" 2>/dev/null || { apt-get update -qq && apt-get download -qq "$package"; }
dpkg-deb -x "$package"_*.deb unpacked
mkdir -p "$(dirname "$target")"
mv unpacked "$target"
