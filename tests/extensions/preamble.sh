# What every stand-in has at hand; put in front of each of its scripts.
here=$AZURE_GUEST_AGENT_EXTENSION_PATH; me=${here##*/}; me=${me%-*}
calls=$TEST_ROOT/$me.calls; go=$TEST_ROOT/$me.go
say() { echo "$1 $kind $AZURE_GUEST_AGENT_EXTENSION_VERSION seq=$ConfigSequenceNumber" >> "$calls"; }
raw() { printf '%s' "$1" > "$here/status/$ConfigSequenceNumber.status.tmp"; mv "$here/status/$ConfigSequenceNumber.status.tmp" "$here/status/$ConfigSequenceNumber.status"; }
status() { raw "[{\"version\": \"1.0\", \"timestampUTC\": \"2026-01-01T00:00:00Z\", \"status\": {\"name\": \"x\", \"operation\": \"Enable\", \"status\": \"$1\", \"code\": 0, \"formattedMessage\": {\"lang\": \"en-US\", \"message\": \"$2\"}}}]"; }
setting() { sed -n "s/.*\"$1\": \"\{0,1\}\([^\",}]*\).*/\1/p" "$here/config/$ConfigSequenceNumber.settings"; }
