# Drops files into the agent's own events folder. [the 2.0 waagent that handlers bundle]
mkdir -p "${here%/*}/events"
for number in 1 2 3; do echo '<Data/>' > "${here%/*}/events/$number.tld"; done
status success "dropped"
