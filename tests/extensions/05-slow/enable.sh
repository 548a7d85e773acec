# Everything takes its time, and the status is renewed seldom.
status transitioning "slow"
until [ -f "$go" ]; do sleep 0.3; done
status success "slow and steady"
