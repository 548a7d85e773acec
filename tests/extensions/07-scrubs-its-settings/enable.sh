# Fails unless its settings are whole, then empties every settings file it finds. [CustomScript, RunCommand, VMAccess]
grep -q '"who": "whole"' "$here/config/$ConfigSequenceNumber.settings" || { echo "scrubbed settings" >&2; exit 1; }
for one in "$here"/config/*.settings; do : > "$one"; done
[ -f "$go" ] || exit 9
status success "settings were whole"
