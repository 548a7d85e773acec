# What the settings say comes through to the letter.
cp "$here/config/$ConfigSequenceNumber.settings" "$TEST_ROOT/$me.settings"
status success "copied"
