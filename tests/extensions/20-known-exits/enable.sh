# Unsupported system, missing dependency, and a few more.
exit "$(setting exit)"
