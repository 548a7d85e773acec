# Editor files, byte code and sources with a byte order mark in the package; more of it made while it runs.
mkdir -p "$here/__pycache__"
echo x > "$here/__pycache__/made.pyc"
status success "tidy enough"
