# Warnings on standard error and exit 0; its manifest loses its head after install.
echo "SyntaxWarning: invalid escape sequence" >&2
echo "usage: $0" >&2
: > "$here/HandlerManifest.json"
status success "enabled"
