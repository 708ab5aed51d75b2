"""The commands of the `token-vault` program, one module per thing they are about.

Modules here import nothing heavy at the top: `token-vault --help` must not load the product.
"""
