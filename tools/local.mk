# sources of tools/
