# A child of uninstall makes and removes files while the agent removes the folder.
( i=0; while [ $i -lt 200 ]; do mkdir -p "$here/busy"; echo x > "$here/busy/$i" 2>/dev/null; rm -rf "$here/busy"; i=$((i + 1)); done ) &
