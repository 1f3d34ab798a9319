# sources of examples/
