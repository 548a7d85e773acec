# Reads no environment: the highest numbered settings are the current ones. [GATestExtGo]
highest=$(ls "$here/config" | sed -n 's/^\([0-9]*\)\.settings$/\1/p' | sort -n | tail -n 1)
ConfigSequenceNumber=$highest status success "took $highest"
