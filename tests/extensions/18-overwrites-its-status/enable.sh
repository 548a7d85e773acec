status error "enable failed"
