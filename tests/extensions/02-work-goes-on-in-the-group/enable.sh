# The work is left behind in the command's own process group and session.
status transitioning "begun"
( until [ -f "$go" ]; do sleep 0.1; done; status success "finished long after enable" ) &
