#!/bin/sh
# Install the Debian packages a list names, one a line, `#` for the reason. Only what is missing; needs root only then.
set -eu
missing=
# shellcheck disable=SC2013  # one name a line
for name in $(sed 's/#.*//' "$1"); do
    dpkg-query -W -f '${db:Status-Abbrev}' "$name" 2>/dev/null | grep -q '^ii' || missing="$missing $name"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ]; then
    echo "These Debian packages are missing; as root: apt-get install$missing" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086  # a list of words is meant
apt-get install -y -qq --no-install-recommends $missing >/dev/null || {
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
}
