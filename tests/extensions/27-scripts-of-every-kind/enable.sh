# Its own scripts have no execute bit, no shebang, Windows line ends: its own business, but for the execute bit.
"$here/bin/helper" > "$here/helped"
status success "$(cat "$here/helped")"
