#!/bin/sh
# A machine of the test's own, in namespaces its caller made: what is written to /etc, /usr, /var and /run goes to memory.
# Arguments: an empty folder for the layers, then folders with unpacked packages.
set -eu
layers=$1
shift
[ "$(readlink /proc/self/ns/mnt)" != "$(readlink /proc/$PPID/ns/mnt)" ] || {
    echo "this is for a mount namespace of its own: nothing was written" >&2
    exit 1
}
mount -t tmpfs -o mode=0755 tmpfs "$layers"
for folder in etc usr var; do
    mkdir -p "$layers/$folder" "$layers/$folder.work"
    mount -t overlay -o "lowerdir=/$folder,upperdir=$layers/$folder,workdir=$layers/$folder.work" overlay "/$folder"
done
mount -t tmpfs -o mode=0755 tmpfs /run
# Read-only, as in a container: networkd waits for no udev then.
mount -t sysfs -o ro sysfs /sys
for folder in etc usr var run; do
    mountpoint -q "/$folder" || {
        echo "/$folder is the machine's own: nothing was written" >&2
        exit 1
    }
done
for package in "$@"; do
    for folder in etc usr lib bin sbin; do
        [ ! -d "$package/$folder" ] || cp -r "$package/$folder/." "$(readlink -f "/$folder")/"
    done
done
ldconfig
for user in systemd-resolve:x:64000 systemd-network:x:64001; do
    echo "$user:64000::/:/usr/sbin/nologin" >>/etc/passwd
    echo "$user:" >>/etc/group
done
mkdir -p /run/dbus /run/systemd
rm -f /etc/resolv.conf
printf 'nameserver 192.0.2.1\noptions timeout:1\n' >/etc/resolv.conf
ip link set lo up
ip link add eth0 type veth peer name peer0
ip link set eth0 up
ip link set peer0 up
ip address add 10.0.0.4/24 dev eth0
echo ready
exec cat
