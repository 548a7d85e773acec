# Remembers the sequence number itself: the same one again is no news and writes nothing.
[ "$(cat "$here/mrseq" 2>/dev/null)" != "$ConfigSequenceNumber" ] || exit 0
echo "$ConfigSequenceNumber" > "$here/mrseq"
status success "sequence number $ConfigSequenceNumber"
