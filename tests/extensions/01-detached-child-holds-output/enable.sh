# The shim returns, its child keeps both streams open. [CustomScript, RunCommand, ApplicationHealth]
exec > >(cat) 2>&1
nohup sh -c 'until [ -f "$0" ]; do sleep 0.1; done; echo late' "$go" &
status success "returned at once"
