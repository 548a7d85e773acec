# Remembers the number before the work is done; killed in between it would never run again.
[ "$(cat "$here/mrseq" 2>/dev/null)" != "$ConfigSequenceNumber" ] || { status success "seen before"; exit 0; }
echo "$ConfigSequenceNumber" > "$here/mrseq"
status transitioning "in the middle"
until [ -f "$go" ]; do sleep 0.1; done
status success "done once"
