"""The commands of the `token-vault` program: the first word of a command line is the name of its module or folder.

All share `context`. Modules import nothing heavy at the top: `token-vault --help` must not load the product.
"""
