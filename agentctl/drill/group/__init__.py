"""The group that a drill is played with, and its local host: made, steered, watched and asked."""
