#!/bin/sh
# In a VM of the lab: an address by DHCP, then the reference agent.
set -eu
dhclient -1 eth0
sh "$(dirname "$0")/reference_agent.sh" "$1" 1
