"""The commands of the `token-vault` program: the first word of a command line is the name of its module or folder.

All use `context`. Modules import nothing heavy at the top level: `token-vault --help` must not load the product.
"""
