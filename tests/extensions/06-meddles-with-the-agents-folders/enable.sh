# Writes where the agent writes, changes modes, makes folders beside its own.
lib=${here%/*}
log=$(sed -n 's/.*"logFolder": "\([^"]*\)",.*/\1/p' "$here/HandlerEnvironment.json")
chmod 700 "${log%/*}"
echo "hello from $me" >> "${log%/*}/waagent.log"
mkdir -p "$lib/events" "$lib/custom-script" "$lib/Not-A-Handler"
echo x > "$lib/events/1.tld"
status success "meddled"
