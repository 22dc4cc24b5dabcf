"""The figures and claims of the paper: computed into arrays, drawn and judged from them alone."""
