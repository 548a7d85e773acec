#!/bin/sh
# What a VM and its host live in: mounts, processes and cgroups of their own. Ends, and all in it, when standard input does.
# Arguments: the root folder (only read), a name nobody else has.
set -eu
base=$1 name=$2 stage=${3-outside}

case $stage in
outside)
    # This one stays outside to remove the cgroup, which alone outlives its processes.
    exec 3<&0
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    cgroup=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/$name
    mkdir "$cgroup"
    sh -c 'echo $$ >"$1/cgroup.procs" && shift && exec "$@"' enter "$cgroup" \
        unshare --mount --pid --fork --kill-child --cgroup sh "$0" "$base" "$name" inside <&3 || true
    until find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || [ ! -d "$cgroup" ]; do :; done
    ;;
inside)
    read -r pid _ </proc/self/stat
    mount -t proc proc /proc
    umount /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mount -t tmpfs -o mode=0755 tmpfs /run
    mkdir -p /run/vm/upper /run/vm/work /run/vm/root
    mount -t overlay -o "lowerdir=$base,upperdir=/run/vm/upper,workdir=/run/vm/work" overlay /run/vm/root
    ip netns add host
    ip netns add vm
    ip -n host link add lan0 address 12:34:56:78:9a:bc type veth peer name eth0 address 00:0d:3a:00:00:04 netns vm
    ip -n host link set lo up
    ip -n host address add 168.63.129.16/32 dev lo
    ip -n host address add 169.254.169.254/32 dev lo
    ip -n host address add 10.0.0.1/24 dev lan0
    ip -n host link set lan0 up
    echo "$pid"
    # The kernel reaps the orphans of a first process that ignores their end.
    exec env --ignore-signal=CHLD cat
    ;;
esac
