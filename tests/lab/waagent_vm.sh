#!/bin/sh
# In a VM of the lab: an address by DHCP, then the reference agent of PACKAGE with SETTINGs of its own.
set -eu
dhclient -1 eth0
package=$1
shift
sh "$(dirname "$0")/reference_agent.sh" "$package" 1 "$@"
