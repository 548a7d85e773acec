#!/bin/sh
# A whole extension in one script: says hello in its log, and reports a status for each enable.
set -eu
folder=${AZURE_GUEST_AGENT_EXTENSION_PATH:-$(cd "$(dirname "$0")/.." && pwd)}
sequence=${ConfigSequenceNumber:-0}
echo "hello: $1, sequence number $sequence"
[ "$1" = enable ] || exit 0

who=$(sed -n 's/.*"who": *"\([A-Za-z0-9 ._-]*\)".*/\1/p' "$folder/config/$sequence.settings" | head -n 1)
now=$(date -u +%Y-%m-%dT%H:%M:%SZ)
status="$folder/status/$sequence.status"
cat > "$status.tmp" <<END
[{"version": "1.0", "timestampUTC": "$now",
  "status": {"name": "Hello", "operation": "Enable", "status": "success", "code": 0,
             "formattedMessage": {"lang": "en-US", "message": "Hello, ${who:-world}!"}}}]
END
mv "$status.tmp" "$status"
