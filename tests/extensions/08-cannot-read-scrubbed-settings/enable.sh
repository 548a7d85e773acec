# Puts its own marks in place of the secrets; a second run on that file would fail. [VMAccess]
grep -q REDACTED "$here/config/$ConfigSequenceNumber.settings" && { echo "failed to decrypt" >&2; exit 1; }
sed -i 's/"protectedSettings": "[^"]*"/"protectedSettings": "*** REDACTED ***"/' "$here/config/$ConfigSequenceNumber.settings"
[ -f "$go" ] || exit 9
status success "decrypted"
