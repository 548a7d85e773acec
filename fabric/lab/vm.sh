#!/bin/sh
# The first process of a VM, in namespaces its caller made: what a VM writes goes to memory, never to the machine.
# Arguments: an empty folder for the layers, the VM's name, its /etc/resolv.conf.
set -eu
layers=$1 name=$2 resolver=$3

hostname "$name"
mount -t tmpfs -o mode=0755 tmpfs "$layers"
for folder in etc home opt root srv usr var; do
    [ -d "/$folder" ] || continue
    mkdir "$layers/$folder" "$layers/$folder.work"
    mount -t overlay -o "lowerdir=/$folder,upperdir=$layers/$folder,workdir=$layers/$folder.work" overlay "/$folder"
done
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir -m 1777 /run/lock
# This network's /sys, with the cgroups that were there.
if [ -d /sys/fs/cgroup ]; then
    mkdir /run/cgroup
    mount --rbind /sys/fs/cgroup /run/cgroup
    mount -t sysfs sysfs /sys
    mount --move /run/cgroup /sys/fs/cgroup
    rmdir /run/cgroup
fi

# As on a first boot: nothing of the machine's own leases, agents and name.
for folder in dhcp waagent azvmagent; do
    rm -rf "/var/lib/$folder"
    mkdir -m 0755 "/var/lib/$folder"
done
rm -f /etc/resolv.conf
printf '%s' "$resolver" >/etc/resolv.conf
printf '%s\n' "$name" >/etc/hostname
printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$name" >/etc/hosts

echo ready
# Ended children that nobody waits for are reaped by the kernel, since nobody here hears of them.
trap '' CHLD
exec sleep infinity >/dev/null 2>&1
