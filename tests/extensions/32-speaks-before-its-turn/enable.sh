# Fails the first time; every time it takes its time before it says anything.
until [ -f "$go$ConfigSequenceNumber" ]; do sleep 0.3; done
if [ "$ConfigSequenceNumber" = 0 ]; then status error "the first fails"; exit 1; fi
status success "the second succeeds"
