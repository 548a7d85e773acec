# disable says it succeeded, over what enable had said. [CustomScript]
status success "Disable succeeded"
