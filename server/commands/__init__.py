"""The commands of the `token-vault` program: the first word of a command line is the name of its module.

`context` is what all share. Modules import nothing heavy at the top: `token-vault --help` must not load the product.
"""
