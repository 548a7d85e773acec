#!/bin/sh
# Unpack Debian's waagent package into a folder, beside the machine: it is never installed.
set -eu
target=$1
[ ! -x "$target/usr/sbin/waagent" ] || exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
cd "$work"
apt-get download -qq waagent 2>/dev/null || { apt-get update -qq && apt-get download -qq waagent; }
dpkg-deb -x waagent_*.deb unpacked
mkdir -p "$(dirname "$target")"
rm -rf "$target"
mv unpacked "$target"
