# A final word on settings nobody has enabled yet.
status success "installed"
