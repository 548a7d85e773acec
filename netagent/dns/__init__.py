"""The VM's resolver: asked for through whoever owns it, and given back."""
