#!/bin/sh
# A VM in namespaces of its own, made by the caller's unshare: our host at Azure's addresses, and the unmodified
# reference agent. Folders an agent writes to are covered by overlays in memory; nothing outside is touched.
set -eu
root=$1 package=$2 python=$3 agent=$4
# Anywhere else it would write over the machine's own files.
[ "$$" -eq 1 ] || { echo "only as the first process of namespaces of its own" >&2; exit 2; }

ip link set lo up
ip addr add 168.63.129.16/32 dev lo
ip addr add 169.254.169.254/32 dev lo
ip link add eth0 type veth peer name host0
ip addr add 10.0.0.4/24 dev eth0
ip link set host0 up
ip link set eth0 up
ip route add default via 10.0.0.1
# A route to it is how this version of the agent knows the host without DHCP.
ip route add 168.63.129.16/32 via 10.0.0.1

mkdir -p "$root/layers"
mount -t tmpfs tmpfs "$root/layers"
for folder in etc var root home; do
    mkdir "$root/layers/$folder" "$root/layers/$folder.work"
    mount -t overlay -o "lowerdir=/$folder,upperdir=$root/layers/$folder,workdir=$root/layers/$folder.work" overlay "/$folder"
done
mount -t tmpfs tmpfs /run

cd /
"$python" -P -m fabric serve --root "$root" --address 168.63.129.16 --imds-address 169.254.169.254 \
    --wireserver-port 80 --hostgaplugin-port 32526 --imds-port 80 --blob-port 8080 >"$root/fabric.log" 2>&1 &
until [ -f "$root/fabric/endpoints.json" ]; do sleep 0.1; done
# Not as the first process: the agent takes a parent with pid 1 for a sign that its daemon is gone.
sh "$agent" "$package" >"$root/waagent.log" 2>&1
