"""The figures of the paper: computed into arrays, and drawn from them alone."""
