"""The ground: what two components, or two versions of one, could disagree on. Imports nothing of ours."""
