# One handler, several extensions, each with its own settings, status and state.
[ "$ConfigExtensionName" != bad ] || { echo "bad one" >&2; exit 4; }
cat > "$here/status/$ConfigExtensionName.$ConfigSequenceNumber.status" <<END
[{"version": "1.0", "status": {"name": "$ConfigExtensionName", "operation": "Enable", "status": "success", "code": 0, "formattedMessage": {"lang": "en-US", "message": "I am $ConfigExtensionName"}}}]
END
