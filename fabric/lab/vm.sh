#!/bin/sh
# The first process of a VM, in namespaces its caller made: what a VM writes goes to memory, never to the machine.
# Arguments: an empty folder for the layers, the VM's name, its /etc/resolv.conf.
set -eu
layers=$1 name=$2 resolver=$3

refuse() {
    echo "$1: nothing was written" >&2
    exit 1
}
# A mount and all below it. Its other options are kept: a user namespace may not take them away.
read_only() {
    while read -r _ _ _ _ place options _; do
        case $place in
        "$1" | "$1"/*) mount -o "remount,bind,ro,${options#r[ow],}" "$place" || refuse "$place stays writable" ;;
        esac
    done </proc/self/mountinfo
}
# What follows would be ruin outside of a VM's own namespaces.
[ $$ = 1 ] || refuse "this is for the first process of a VM only"

hostname "$name"
mount -t tmpfs -o mode=0755 tmpfs "$layers"
option=
if [ ! -O /etc ]; then
    # In a user namespace the machine's folders belong to nobody we are; folders in the upper layer are ours.
    find /etc /var -xdev -maxdepth 3 -type d 2>/dev/null | (cd "$layers" && sed 's,^/,,' | xargs -d '\n' mkdir -p)
    chmod 1777 "$layers/var/tmp"
    option=,userxattr
fi
for folder in etc home opt root srv usr var; do
    [ -d "/$folder" ] || continue
    if [ ! -r "/$folder" ]; then
        mount -t tmpfs -o mode=0755 tmpfs "/$folder"
        continue
    fi
    mkdir -p "$layers/$folder" "$layers/$folder.work"
    mount -t overlay -o "lowerdir=/$folder,upperdir=$layers/$folder,workdir=$layers/$folder.work$option" overlay "/$folder"
done
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir -m 1777 /run/lock
# This network's /sys, with the cgroups that were there. They and the kernel's settings are the machine's: to be read.
if [ -d /sys/fs/cgroup ]; then
    mkdir /run/cgroup
    mount --rbind /sys/fs/cgroup /run/cgroup
    mount -t sysfs sysfs /sys
    mount --move /run/cgroup /sys/fs/cgroup
    rmdir /run/cgroup
fi
read_only /sys
mount --bind /proc/sys /proc/sys
read_only /proc/sys
# These are this network's own.
mount --bind /proc/sys/net /proc/sys/net
mount -o remount,bind,rw /proc/sys/net
[ ! -d /dev/shm ] || mount -t tmpfs -o mode=1777 tmpfs /dev/shm

for folder in etc root run var; do
    mountpoint -q "/$folder" || refuse "/$folder is the machine's own"
done

# As on a first boot: nothing of the machine's own leases, agents and name.
for folder in dhcp waagent azvmagent; do
    if [ -d "/var/lib/$folder" ]; then
        mount -t tmpfs -o mode=0755 tmpfs "/var/lib/$folder"
    fi
done
rm -f /etc/resolv.conf /etc/hostname /etc/hosts
printf '%s' "$resolver" >/etc/resolv.conf
printf '%s\n' "$name" >/etc/hostname
printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$name" >/etc/hosts

echo ready
# The kernel reaps orphans of a first process that ignores their end.
exec env --ignore-signal=CHLD sleep infinity >/dev/null 2>&1
