# Temporary names, empty files and other extensions' files beside the one that counts.
for name in "$ConfigSequenceNumber.status.part" "$ConfigSequenceNumber.status123456" tempStatusFile.status other.0.status immediateGoalStates1.status 99.status; do
    echo '[{"status": {"status": "error", "formattedMessage": {"lang": "en-US", "message": "not this one"}}}]' > "$here/status/$name"
done
: > "$here/status/tempStatusFile.status"
status success "this one"
