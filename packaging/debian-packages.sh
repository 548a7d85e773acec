#!/bin/sh
# Install the Debian packages a list names, one a line, `#` for the reason. Only what is missing; needs root only then.
set -eu
missing=
while read -r name _; do
    case $name in '' | '#'*) continue ;; esac
    # A command of that name may have come from elsewhere, and does as well.
    command -v "$name" >/dev/null 2>&1 || dpkg-query -W -f '${db:Status-Abbrev}' "$name" 2>/dev/null | grep -q '^ii' || missing="$missing $name"
done <"$1"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ]; then
    echo "These Debian packages are missing; as root: apt-get install$missing" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
# Servers among them are for the tests to start: while they are installed, nothing may start them here.
if [ ! -e /usr/sbin/policy-rc.d ]; then
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT INT TERM
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
fi
# shellcheck disable=SC2086  # a list of words is meant
apt-get install -y -qq --no-install-recommends $missing >/dev/null || {
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
}
